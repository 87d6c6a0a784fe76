"""The leaderboard for papers, browsers and terminals."""

import base64
import hashlib
import itertools
import json
import re
import subprocess

import pytest
from support.html import Page
from support.models import store
from support.rows import make_row

from cosmos_eval.cli.run import print_results
from cosmos_eval.results.labels import shorten_names
from cosmos_eval.results.leaderboard.board import make_boards
from cosmos_eval.results.leaderboard.entries import Entry, entries_of_rows, published_beside
from cosmos_eval.results.leaderboard.task_tables import (
    headline_entries,
    select_entries,
    tables_of,
)
from cosmos_eval.results.leaderboard.writers import Leaderboard, to_html, to_tex, to_texts
from cosmos_eval.results.table import NamePatterns, TableOptions, split_patterns
from cosmos_eval.results.text import latex_text
from cosmos_eval.runner.plan import Pair, Result
from cosmos_eval.types import UsageError

ODD = "cosmos:[a]\\b_c$d&e#f%g{h}~i^j<script>alert('k')</script>--l*m|\"n\" é"
PLAIN = TableOptions()
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
    rows += [make_row(provenance={"limit": 2}, model={"spec": ODD})]
    return [*entries_of_rows(rows), *published_beside([])]


def small():
    retrieval = {"task": "retrieval", "dataset": "my_set", "intervals": {}}
    r1 = {"image_to_text_R@1": 0.5, "text_to_image_R@1": 0.25}
    clip = {"model": {"spec": "scenes-clip"}}
    return [
        make_row(),
        make_row(**clip, metrics={"acc1": 0.26}),
        make_row(**retrieval, metrics=r1),
        make_row(**retrieval, **clip, metrics={**r1, "text_to_image_R@1": 0.375}),
    ]


def test_latex_of_a_small_board():
    shown = Leaderboard(entries_of_rows(small()), options=TableOptions(second=True))
    retrieval, cls = to_tex(shown).split("\n\n")
    assert retrieval.splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        r"\caption[{Retrieval (\%), protocol scenes}]{Retrieval (\%), protocol scenes. "
        r"Bold: the best by its data set and metric. Underlined: the second best.}",
        r"\label{tab:retrieval}",
        r"\medskip",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        r"\begin{tabular}{@{}lrr@{}}",
        r"\toprule",
        r" & \multicolumn{2}{c}{my\_set} \\",
        r"\cmidrule(lr){2-3}",
        r" & image to & text to \\",
        r"model & text R@1 & image R@1 \\",
        r"\midrule",
        r"scenes-clip & \textbf{50.0} & \textbf{37.5} \\",
        r"scenes-cosmos & \textbf{50.0} & \underline{25.0} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    assert r"scenes-cosmos & \underline{25.0}$^\ddagger$\,$^{+25.0}_{-12.5}$ \\" in cls.splitlines()
    assert r"$\ddagger$ not distinguished from the best" in cls


def test_symmetric_intervals_of_latex():
    ends = {"acc1": {"low": 0.23, "high": 0.27, "method": "wilson", "level": 0.95}}
    text = to_tex(Leaderboard(entries_of_rows([make_row(intervals=ends)])))
    assert r"scenes-cosmos & 25.0\,{\scriptsize $\pm$2.0} \\" in text


def test_special_characters_of_latex():
    assert latex_text(ODD) == (
        r"cosmos:{[}a{]}\textbackslash{}b\_c\$d\&e\#f\%g\{h\}\textasciitilde{}i\textasciicircum{}j"
        r"\textless{}script\textgreater{}alert('k')\textless{}/script\textgreater{}-{}-l{*}m"
        r"""\textbar{}"n" é"""
    )
    assert latex_text("a\nb---c") == "a b-{}-{}-c"


def test_a_table_wider_than_the_text_is_split_and_repeats_no_caption():
    rows = [make_row(dataset=f"a-long-name-of-a-data-set-{n}") for n in range(7)]
    text = to_tex(Leaderboard(entries_of_rows(rows)))
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert labels == ["tab:cls", "tab:cls-2"] + [f"tab:cls-{n}" for n in range(3, 1 + len(labels))]
    assert len(labels) > 2
    assert text.count("Signs as in Table~\\ref{tab:cls}") == len(labels) - 1
    assert [f"set-{n}" in text for n in range(7)] == [True] * 7


def test_a_table_longer_than_a_page_is_split():
    rows = [make_row(model={"spec": f"m{n:03}"}) for n in range(90)]
    bodies = re.findall(
        r"(?s)\\midrule\n(.*?)\\bottomrule", to_tex(Leaderboard(entries_of_rows(rows)))
    )
    first, second, third = (len(body.splitlines()) for body in bodies)
    assert first + second + third == 90
    assert first in (28, 29)  # the notes are about as high as two rows
    assert {second, third} <= {30, 31}


@pytest.mark.program("pdflatex", install="apt install texlive-latex-recommended")
@pytest.mark.parametrize(
    "options", [TableOptions(second=True, ranks=True), TableOptions(transpose=True)], ids=str
)
def test_latex_compiles_and_fits_the_text(tmp_path, entries, options):
    text = to_tex(Leaderboard(entries, facts=True, options=options))
    (tmp_path / "board.tex").write_text(DOCUMENT % text, "utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "board.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert (tmp_path / "board.pdf").read_bytes().startswith(b"%PDF")
    assert [line for line in log.splitlines() if "Overfull" in line or "too large" in line] == []


def test_html_is_one_page_that_needs_nothing_else(entries):
    text = to_html(Leaderboard(entries))
    page = Page(text)
    assert not page.all("link", "img", "iframe")
    style, script = page.all("style", "script")
    (policy,) = [content for content in page.values("content") if "default-src" in content]
    for allowed in (style.text, script.text):
        digest = base64.b64encode(hashlib.sha256(allowed.encode()).digest()).decode()
        assert f"-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not [name for name in page.names if name.startswith("on")]
    assert "@import" not in text
    assert "url(" not in text
    assert {*page.values("href", "src")} == {entry.url for entry in entries if entry.url}
    assert "color-scheme: light dark" in text
    assert len(page.all("table")) == 4  # retrieval, classification, segmentation, a limited result


def test_names_are_text_in_html(entries):
    elements = Page(to_html(Leaderboard(entries))).elements
    texts = [element.text.strip() for element in elements]
    assert {ODD, "[100%]_set (scenes)"} <= set(texts)


def test_html_shows_best_ties_ranks_and_sources(entries):
    text = to_html(Leaderboard(entries, options=TableOptions(ranks=True)))
    assert (
        '<td data-value="26.0"><b>26.0</b> <small>+24.0/-13.5</small> <small>(1-2)</small></td>'
        in text
    )
    assert (
        '<td data-value="25.0">25.0‡ <small>+25.0/-12.5</small> <small>(1-2)</small></td>' in text
    )
    url = (
        "https://github.com/wangf3014/SCLIP/blob/b56bd3014b9e8a3ee3450bcfc53700a67d627b7a/README.md"
    )
    assert f'<td class="text"><a href="{url}">published</a></td>' in text


def lines(entries, width, options=PLAIN):
    """What a terminal of a width shows."""
    shown = to_texts(Leaderboard(entries, options=options), width)
    return "\n\n".join(text.plain for text in shown).splitlines()


def test_the_terminal_shows_number_interval_rank_and_difference():
    released = make_row(
        model={"spec": "cosmos:vitb16_cc3m"}, dataset="imagenet1k", protocol="cosmos"
    )
    better = make_row(
        model={"spec": "[red]x[/red]"},
        dataset="imagenet1k",
        protocol="cosmos",
        metrics={"acc1": 0.26},
    )
    entries = entries_of_rows([released, better])
    assert lines(entries, 80, TableOptions(ranks=True))[:6] == [
        "Classification (%), protocol cosmos",
        "                              imagenet1k",
        "model                                         acc1",
        "─" * 50,
        "[red]x[/red]        26.0  +24.0/-13.5 (1-2)",
        "cosmos:vitb16_cc3m  25.0‡ +25.0/-12.5 (1-2) Δ-12.1",
    ]


def test_a_narrow_table_is_transposed():
    rows = [make_row(dataset=f"{name}-of-images", intervals={}) for name in ("set", "other")]
    wide, narrow = (lines(entries_of_rows(rows), width)[1:-1] for width in (60, 26))
    assert wide == [
        "               other-of-images  set-of-images",
        "model                     acc1           acc1",
        "─────────────────────────────────────────────",
        "scenes-cosmos             25.0           25.0",
    ]
    assert narrow == [
        "metric  scenes-cosmos",
        "─────────────────────",
        "other-of-images",
        "  acc1           25.0",
        "set-of-images",
        "  acc1           25.0",
    ]


def test_the_best_is_bold_in_the_terminal():
    rows = [make_row(model={"spec": "scenes-clip"}, metrics={"acc1": 0.26}), make_row()]
    options = TableOptions(second=True)
    table, notes = to_texts(Leaderboard(entries_of_rows(rows), options=options), 80)
    styles = {str(s.style): table.plain[s.start : s.end] for s in table.spans}
    assert (styles["bold green"], styles["underline"]) == ("26.0", "25.0")
    assert "Bold: the best by its data set and metric." in notes.plain


def test_the_best_has_a_mark_if_text_cannot_be_bold(command, tmp_path, monkeypatch):
    store(tmp_path / "r", "cls", 0.9)
    store(tmp_path / "r", "cls", 0.1, 2, model={"spec": "scenes-clip"})
    legend = "* the best by its data set and metric."
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    piped = command("leaderboard", "r").out
    assert re.search(r"scenes-cosmos +\d+\.\d\* ", piped)
    assert not re.search(r"scenes-clip +\d+\.\d\*", piped)
    assert legend in piped.splitlines()
    assert "Bold" not in piped
    command("leaderboard", "r", "--output", "table.txt")
    assert legend in (tmp_path / "table.txt").read_text().splitlines()
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    styled = command("leaderboard", "r").out
    assert re.search(r"\x1b\[1;32m\d+\.\d\x1b\[0m ", styled)
    assert "*" not in styled
    assert "Bold: the best by its data set and metric." in styled


@pytest.mark.parametrize("width", [60, 80, 100, 120, 250])
def test_wide_boards_become_several_tables_that_fit(width):
    entries = headline_entries(published_beside([]))
    shown = lines(entries, width)
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    assert (", part 1 of" in text) == (width < 100)
    assert "…" not in text
    # No number is broken: each of the published ones is a word of its own.
    body = text[: text.index("Bold: the best")]
    numbers = sum(len(entry.metrics) for entry in entries)
    assert len(re.findall(r"(?<!\S)\d+\.\d(?!\S)", body)) == numbers


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
    assert list(shorten_names(names).values()) == [
        "cosmos:.../first/checkpoints/last.pt",
        "cosmos:.../second/checkpoints/last.pt",
        "cosmos:.../last.pt (student, bf16)",
        "cosmos:.../best.pt",
        "cosmos:.../best.pt (proxy: timm:vit_base_patch8_224.dino/dino/last.pt)",
        *names[5:],
    ]


def test_shortened_names_are_unique_and_shorter():
    words = ["data", "runs", "a", "b"]
    names = [f"cosmos:/{'/'.join(path)}/x.pt" for path in itertools.product(words, repeat=4)]
    short = shorten_names(names, longest=5)
    assert len(set(short.values())) == len(names)
    assert all(len(short[name]) <= len(name) for name in names)


def test_a_board_of_one_cell():
    entry = Entry("m", "cls", "d", "p", {"acc1": 0.5}, {}, "measured")
    assert "m      50.0" in lines([entry], 14)


def titles(entries, options):
    return [table.title for table in tables_of(make_boards(entries), options)]


def test_other_settings_have_tables_of_their_own():
    """These are a limit, a student and another form of attention. Results of another precision
    stay in the table of the usual ones."""
    rows = [
        make_row(),
        make_row({"limit": 2}),
        make_row({"attention": "naclip"}),
        make_row({"precision": "amp"}),
        make_row(model={"weights": "student"}),
    ]
    plain, aside = tables_of(make_boards(entries_of_rows(rows)), TableOptions())
    assert [row[0].text for row in plain.rows] == ["scenes-cosmos", "scenes-cosmos (amp)"]
    assert aside.title == "Classification (%), other settings, protocol scenes"
    assert [row[0].text for row in aside.rows] == [
        f"scenes-cosmos ({word})" for word in ("first 2 only", "naclip", "student")
    ]


@pytest.fixture
def variants(tmp_path):
    """Return a folder with five results of one model, of which two are headlines."""
    folder = tmp_path / "variants"
    store(folder, "loc", protocol="localisation")
    store(folder, "loc", protocol="localisation-similarity")
    store(folder, "retrieval", protocol="cosmos")
    store(folder, "retrieval", protocol="cosmos-pairs100")
    store(folder, "retrieval", protocol="cosmos", model={"weights": "student"})
    return folder


@pytest.mark.parametrize(
    ("arguments", "protocols", "n_left_out"),
    [
        ((), {"cosmos", "localisation"}, 3),
        (("--all",), {"cosmos", "cosmos-pairs100", "localisation", "localisation-similarity"}, 0),
        (("--protocols", "*-pairs*"), {"cosmos-pairs100"}, 0),
        (("--protocols", "cosmos*"), {"cosmos", "cosmos-pairs100"}, 1),
        (("--models", "scenes-cosmos"), {"cosmos", "localisation"}, 2),
        (("--models", "scenes-cosmos (student)"), {"cosmos"}, 0),
        (("--datasets", "scenes-loc"), {"localisation"}, 1),
    ],
)
@pytest.mark.parametrize("form", ["table", "md", "tex", "html"])
def test_tables_show_headline_protocols(command, variants, form, arguments, protocols, n_left_out):
    ended = command("leaderboard", variants, "--format", form, *arguments)
    assert ended.status == 0
    shown = set(re.findall(r"cosmos-pairs100|localisation-similarity", ended.out))
    assert shown == {name for name in protocols if "-" in name}
    has_student = "scenes-cosmos (student)" in ended.out
    assert has_student == ("--all" in arguments or "scenes-cosmos (student)" in arguments)
    note = "variants of protocols, or other settings (--all shows them)"
    expected = f"note: results not shown: {n_left_out}, {note}\n" if n_left_out else ""
    assert ended.err == expected


def test_data_for_programs_have_all_results(command, variants):
    shown = command("leaderboard", variants, "--format", "json")
    assert (len(json.loads(shown.out)), shown.err) == (5, "")
    lines_of_csv = command("leaderboard", variants, "--format", "csv").out.splitlines()[1:]
    keys = {tuple(line.split(",")[position] for position in (0, 3)) for line in lines_of_csv}
    assert len(keys) == 5


def test_results_without_any_headline_are_shown(command, tmp_path):
    store(tmp_path / "r", "cls", provenance={"limit": 20})
    ended = command("leaderboard", "r")
    assert "other settings" in ended.out
    assert ended.err == ""


def test_run_leaves_out_variants_that_nobody_named(capsys):
    rows = [make_row(protocol=name) for name in ("cosmos", "cosmos-pairs")]
    rows.append(make_row({"limit": 2}, protocol="cosmos"))
    results = [Result(Pair("scenes-cosmos", row.dataset, row.protocol), row) for row in rows]
    print_results(results, as_json=False)
    shown = capsys.readouterr()
    assert "cosmos-pairs" not in shown.out
    assert "first 2 only" in shown.out
    note = "results not shown: 1, variants of protocols, or other settings"
    assert f"note: {note} (cosmos-eval leaderboard runs/eval --all shows them)\n" in shown.err
    print_results(results, as_json=False, names_protocols=True)
    shown = capsys.readouterr()
    assert "cosmos-pairs" in shown.out
    assert "not shown" not in shown.err


def test_selected_models_and_sets_are_shown_in_the_order_of_the_selection():
    rows = [
        make_row(model={"spec": model}, dataset=dataset) for model in "abc" for dataset in "xyz"
    ]
    entries = entries_of_rows(rows)
    options = TableOptions(NamePatterns(models=("c", "a*"), datasets=("z", "x"), metrics=("acc5",)))
    (table,) = tables_of(make_boards(select_entries(entries, options.patterns)), options)
    assert [row[0].text for row in table.rows] == ["c", "a"]
    assert [(head.group, head.title) for head in table.heads[1:]] == [("z", "acc5"), ("x", "acc5")]
    assert {cell.text for row in table.rows for cell in row[1:]} == {"75.0"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            NamePatterns(models=("scenes-cosmo",)),
            "no model is called 'scenes-cosmo'; nearest: scenes-c",
        ),
        (
            NamePatterns(datasets=("scenes",)),
            "no data set is called 'scenes'; nearest: scenes-cls",
        ),
        (NamePatterns(protocols=("x",)), "no protocol is called 'x'; nearest: scenes"),
        (NamePatterns(metrics=("acc",)), "no metric is called 'acc'; nearest: acc"),
        (
            NamePatterns(models=("scenes-clip",), datasets=("my_set",), metrics=("acc1",)),
            "no metric",
        ),
    ],
)
def test_a_pattern_that_nothing_matches_is_refused(patterns, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        select_entries(entries_of_rows(small()), patterns)


def test_rows_are_sorted_by_a_metric_or_by_all():
    values = {"a": (0.5, 0.1), "b": (0.4, 0.4), "c": (0.6, 0.3), "d": (0.1, None)}
    rows = []
    for name, (first, second) in values.items():
        rows.append(make_row(model={"spec": name}, metrics={"acc1": first}))
        if second is not None:
            rows.append(make_row(model={"spec": name}, dataset="z", metrics={"acc1": second}))
    entries = entries_of_rows(rows)

    def order(sort, dataset="*"):
        options = TableOptions(NamePatterns(datasets=(dataset,)), sort=sort)
        (table,) = tables_of(make_boards(select_entries(entries, options.patterns)), options)
        return "".join(row[0].text for row in table.rows)

    assert order("") == order("model") == "abcd"
    assert order("acc1", "scenes-cls") == "cabd"
    assert order("acc1", "z") == "bca"
    # The shares of better rows: a (1/4, 2/3), b (2/4, 0), c (0, 1/3), d (3/4).
    assert order("rank") == "cbad"
    with pytest.raises(UsageError, match="--sort acc9: give model, rank or a metric"):
        order("acc9")


def test_decimals_are_those_of_numbers_and_intervals_and_decide_what_is_equal():
    rows = [make_row(metrics={"acc1": 0.25004}), make_row(model={"spec": "b"})]
    (board,) = make_boards(entries_of_rows(rows), decimals=3)
    first, second = (row.cells[0] for row in board.rows)
    assert (first.value, first.best, second.value, second.best) == ("25.000", False, "25.004", True)
    assert second.ends == ("24.996", "12.504")


def test_values_of_an_option():
    assert split_patterns(["a, b", "x (student, amp),*"]) == ["a", "b", "x (student, amp)", "*"]


def test_transposed_tables_of_all_tasks_are_one():
    options = TableOptions(transpose=True)
    (table,) = tables_of(make_boards(entries_of_rows(small())), options)
    assert [head.title for head in table.heads] == ["metric", "scenes-clip", "scenes-cosmos"]
    assert table.sections == ("my_set", "my_set", "scenes-cls")
    assert titles(entries_of_rows(small()), options) == [
        "Retrieval, classification (%), protocol scenes"
    ]
