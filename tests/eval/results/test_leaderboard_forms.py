"""The leaderboard for papers, browsers and terminals."""

import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console
from support.html import Page
from support.rows import make_row

from cosmos_eval.results.labels import shortened
from cosmos_eval.results.leaderboard.entries import Entry, measured, published_beside
from cosmos_eval.results.leaderboard.writers import Leaderboard, to_html, to_latex, to_tables
from cosmos_eval.results.text import latex_text

ODD = "cosmos:[a]\\b_c$d&e#f%g{h}~i^j<script>alert('k')</script>--l*m|\"n\" é"
DOCUMENT = """\
\\documentclass{article}
\\usepackage{booktabs}
\\begin{document}
%s
\\end{document}
"""


@pytest.fixture
def entries():
    """Two measured models that tie, one with an odd name, on an odd data set, and the published."""
    metrics = {"acc1": 0.26}
    rows = [make_row(), make_row(model={"spec": ODD}, metrics=metrics)]
    rows += [make_row(dataset="[100%]_set")]
    return [*measured(rows), *published_beside([])]


def test_latex_of_a_small_board():
    retrieval = {"task": "retrieval", "dataset": "my_set", "intervals": {}}
    r1 = {"image_to_text_R@1": 0.5, "text_to_image_R@1": 0.25}
    rows = [
        make_row(),
        make_row(model={"spec": "scenes-clip"}, metrics={"acc1": 0.26}),
        make_row(**retrieval, metrics=r1),
    ]
    first, last = (rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}" for place in "tb")
    more, end = r"\scriptsize [12.5, 50.0] \\ \scriptsize rank 1--2", r"\end{tabular}"
    assert to_latex(Leaderboard(measured(rows))).splitlines() == [
        r"% needs \usepackage{booktabs} in the preamble",
        r"\begin{table}",
        r"\centering",
        r"\caption{Protocol scenes (\%)}",
        r"\small",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{my\_set} & \multicolumn{1}{c}{scenes-cls} \\",
        r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}",
        rf"model & {last}image to text \\ R@1{end} & {last}text to image \\ R@1{end} & acc1 \\",
        r"\midrule",
        rf"scenes-clip &  &  & {first}\textbf{{26.0}} \\ {more}{end} \\",
        rf"scenes-cosmos & 50.0 & 25.0 & {first}25.0$^\ddagger$ \\ {more}{end} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip{\footnotesize Bold: the best of its column.\par}",
        r"\par\smallskip{\footnotesize $\ddagger$ not distinguished from the best: the intervals, "
        r"widened for the number of results, overlap (their samples were not compared).\par}",
        r"\par\smallskip{\footnotesize Rank: the ranks that a result measured here can have; those "
        r"of a whole column hold at once with 95\%.\par}",
        r"\par\smallskip{\footnotesize Intervals cover test images, not seeds: each model was "
        r"trained once.\par}",
        r"\end{table}",
    ]


def test_special_characters_of_latex():
    assert latex_text(ODD) == (
        r"cosmos:{[}a{]}\textbackslash{}b\_c\$d\&e\#f\%g\{h\}\textasciitilde{}i\textasciicircum{}j"
        r"\textless{}script\textgreater{}alert('k')\textless{}/script\textgreater{}-{}-l{*}m"
        r"""\textbar{}"n" é"""
    )
    assert latex_text("a\nb---c") == "a b-{}-{}-c"


def test_every_line_of_a_latex_table_has_as_many_cells(entries):
    text = to_latex(Leaderboard(entries))
    stack = re.compile(r"\\begin\{tabular\}\[[tb]\].*?\\end\{tabular\}")
    for table in stack.sub("", text).split(r"\begin{tabular}")[1:]:
        body = table.split(r"\end{tabular}")[0]
        columns = len(body[1 : body.index("}")])
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) > 2
        assert {line.replace(r"\&", "").count(" & ") + 1 for line in lines[1:]} == {columns}
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 9
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
    plain = text.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX with booktabs")
def test_latex_compiles(tmp_path, entries):
    (tmp_path / "board.tex").write_text(DOCUMENT % to_latex(Leaderboard(entries)), "utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "board.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "board.pdf").read_bytes().startswith(b"%PDF")


def test_html_is_one_page_that_needs_nothing_else(entries):
    text = to_html(Leaderboard(entries))
    page = Page(text)
    assert not page.all("script", "link", "img", "iframe")
    assert not [name for name in page.names if name.startswith("on")]
    assert "@import" not in text
    assert "url(" not in text
    assert {*page.values("href", "src")} == {entry.url for entry in entries if entry.url}
    assert "color-scheme: light dark" in text
    assert len(page.all("table")) == len({entry.protocol for entry in entries})


def test_names_are_text_in_html(entries):
    texts = [one.text.strip() for one in Page(to_html(Leaderboard(entries))).elements]
    assert {ODD, "[100%]_set"} <= set(texts)


def test_html_shows_best_ties_places_and_sources(entries):
    text = to_html(Leaderboard(entries))
    assert "<td><b>26.0</b><small>[12.5, 50.0]</small><small>rank 1-2</small></td>" in text
    assert "<td>25.0‡<small>[12.5, 50.0]</small><small>rank 1-2</small></td>" in text
    url = "https://github.com/wangf3014/SCLIP/blob/main/README.md"
    assert f'<td class="source"><a href="{url}">published</a></td>' in text


def lines(entries, width):
    """What a terminal of a width shows."""
    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in to_tables(Leaderboard(entries), width):
        console.print(table)
    return out.getvalue().splitlines()


def test_the_terminal_shows_number_place_interval_and_difference():
    where = {"dataset": "imagenet1k", "protocol": "cosmos"}
    rows = [
        make_row(model={"spec": "cosmos:vitb16_cc3m"}, **where),
        make_row(model={"spec": "[red]x[/red]"}, **where, metrics={"acc1": 0.26}),
    ]
    shown = [line.strip("│ ").split("│") for line in lines(measured(rows), 80) if "│" in line]
    assert [[cell.strip() for cell in row] for row in shown] == [
        ["[red]x[/red]", "26.0 (1-2)"],
        ["[12.5, 50.0]"],
        ["cosmos:vitb16_cc3m", "25.0‡ (1-2)"],
        ["[12.5, 50.0]"],
        ["-12.1"],
    ]


def test_the_best_is_bold_in_the_terminal():
    rows = [make_row(model={"spec": "scenes-clip"}, metrics={"acc1": 0.26}), make_row()]
    (table,) = to_tables(Leaderboard(measured(rows)), 80)
    first, second = table.columns[-1].cells
    assert [(str(s.style), first.plain[s.start : s.end]) for s in first.spans] == [
        ("bold green", "26.0")
    ]
    assert not second.spans


@pytest.mark.parametrize("width", [70, 100, 250])
def test_wide_boards_become_several_tables_that_fit(width):
    shown = lines(published_beside([]), width)
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    assert (", part 1 of" in text) == (width < 250)
    # No number is broken: each of the published ones stands on one line of a cell.
    numbers = sum(len(entry.metrics) for entry in published_beside([]))
    cells = [cell.strip() for line in shown if "│" in line for cell in line.split("│")]
    assert sum(re.fullmatch(r"\d+\.\d", cell) is not None for cell in cells) == numbers


def test_long_paths_are_cut_so_that_they_stay_apart():
    runs = "cosmos:/home/somebody/experiments/2026"
    names = [
        f"{runs}/first/checkpoints/last.pt",
        f"{runs}/second/checkpoints/last.pt",
        f"{runs}/second/checkpoints/last.pt (student, bf16)",
        f"{runs}/second/checkpoints/best.pt",
        f"{runs}/second/checkpoints/best.pt (proxy: timm:vit_base_patch8_224.dino/dino/last.pt)",
        "openclip:ViT-B-32/laion2b_s34b_b79k",
        "cosmos:second/checkpoints/last.pt",
        "a name that is very long but has no folder in it at all",
    ]
    assert list(shortened(names).values()) == [
        "cosmos:…/first/checkpoints/last.pt",
        "cosmos:…/second/checkpoints/last.pt",
        "cosmos:…/last.pt (student, bf16)",
        "cosmos:…/best.pt",
        "cosmos:…/best.pt (proxy: timm:vit_base_patch8_224.dino/dino/last.pt)",
        *names[5:],
    ]


def test_shortened_names_are_unique_and_shorter():
    import itertools

    words = ["data", "runs", "a", "b"]
    names = [f"cosmos:/{'/'.join(path)}/x.pt" for path in itertools.product(words, repeat=4)]
    short = shortened(names, longest=5)
    assert len(set(short.values())) == len(names)
    assert all(len(short[name]) <= len(name) for name in names)


def test_a_board_of_one_cell():
    entry = Entry("m", "cls", "d", "p", {"acc1": 0.5}, {}, "measured")
    assert "│ 50.0" in "".join(lines([entry], 14))
