"""Tables for papers: what they look like in LaTeX, whether they fit, and what captions state."""

import json
import re
import subprocess
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
from support.models import make_result
from support.rows import make_row

from cosmos_eval.results.captions import (
    INTERVAL_METHODS,
    TEST_METHODS,
    methods_sentence,
    sizes_sentence,
)
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.compare import paired_differences
from cosmos_eval.results.comparison_table import comparison_table
from cosmos_eval.results.latex import to_latex
from cosmos_eval.results.leaderboard.entries import entries_of, entries_of_rows, published_beside
from cosmos_eval.results.leaderboard.suite import suite_score
from cosmos_eval.results.leaderboard.task_tables import headline_entries
from cosmos_eval.results.leaderboard.writers import Leaderboard, to_tex
from cosmos_eval.results.sides import read_comparison
from cosmos_eval.results.store import result_paths
from cosmos_eval.results.table import Cell, Head, Table, TableOptions
from cosmos_eval.runner.suites import read_score

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
MODELS = ("--model", "scenes-cosmos", "--model", "scenes-clip-long")
SUITE = """
models: [scenes-cosmos]
datasets: {scenes: [scenes-cls, scenes-cls-small]}
score: {metric: acc1}
"""
needs_latex = pytest.mark.program("pdflatex", install="apt install texlive-latex-recommended")
PAPER = r"""
\documentclass[10pt,twocolumn]{article}
\usepackage{booktabs,graphicx}
\setlength{\textwidth}{6.875in}
\setlength{\columnsep}{0.375in}
\begin{document}
%s
\end{document}
"""


def compiled(folder: Path, body: str) -> str:
    """Compile the body of a paper with two columns of 3.25 inches, and return the log."""
    (folder / "paper.tex").write_text(PAPER % body, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    return log


@pytest.fixture(scope="module")
def comparison():
    return read_comparison(RESULTS, models=["scenes-cosmos", "scenes-clip-long"])


def column_of(cells: list[Cell]) -> list[str]:
    """The cells of a column of numbers in LaTeX, beside another one: empty rows are left out."""
    rows = tuple((Cell("model"), cell, Cell("1")) for cell in cells)
    text = to_latex(Table("t", (Head("model"), Head("x"), Head("y")), rows))
    body = re.search(r"(?s)\\midrule\n(.*?)\\bottomrule", text)[1]
    return [line.split(" & ")[1] for line in body.splitlines()]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("", "--"),
        ("-", "--"),
        ("67.1", "67.1"),
        ("-2.8", "$-$2.8"),
        ("1.42x", r"1.42$\times$"),
        ("6.3e-05", r"6.3$\times10^{-5}$"),
        ("<1e-06", r"\textless{}$10^{-6}$"),
        ("[-0.3, 5.8]", "{[}$-$0.3, 5.8{]}"),
        ("1-2", "1-2"),
        ("64x64", "64x64"),
    ],
)
def test_numbers_of_latex(text, latex):
    assert column_of([Cell(text)]) == [latex]


def test_symmetric_intervals_line_up():
    assert column_of([Cell("9.0", ("1.9",)), Cell("50.0", ("12.0",)), Cell("7.5")]) == [
        r"9.0\,{\scriptsize $\pm$\phantom{0}1.9}",
        r"50.0\,{\scriptsize $\pm$12.0}",
        r"7.5\phantom{\,{\scriptsize $\pm$\phantom{0}1.9}}",
    ]


def test_intervals_of_a_column_have_one_form():
    cells = [Cell("9.0", ("1.9",)), Cell("50.0", ("12.0", "9.5"), mark="†")]
    assert column_of(cells) == [
        r"9.0\phantom{$^\dagger$}\,$^{+\phantom{0}1.9}_{-\phantom{0}1.9}$",
        r"50.0$^\dagger$\,$^{+12.0}_{-\phantom{0}9.5}$",
    ]


@needs_latex
def test_what_stands_behind_the_numbers_of_a_column_is_equally_wide(tmp_path):
    cells = [
        Cell("94.6", ("1.7", "2.3"), best=True, details=("(1-2)",)),
        Cell("4.0", ("12.1", "1.4"), mark="‡", details=("(3)", "Δ+0.4")),
        Cell("50.0", ("[90.1, 92.3]",)),
        Cell("2.0", ("0.5",), second=True),
        Cell("published"),
        Cell(""),
    ]
    numbers = [r"\textbf{94.6}", "4.0", "50.0", r"\underline{2.0}", "published", "--"]
    body = r"\small "
    for text, number in zip(column_of(cells), numbers, strict=True):
        assert text.startswith(number)
        behind = text.removeprefix(number)
        body += rf"\setbox0\hbox{{{behind}}}\typeout{{width \the\wd0}}"
    widths = re.findall(r"width ([\d.]+)pt", compiled(tmp_path, body + " x"))
    assert len(widths) == len(cells)
    assert float(widths[0]) > 20
    assert len(set(widths)) == 1


def test_sections_are_rows_that_span_the_table():
    rows = tuple((Cell(name), Cell(value)) for name, value in ("a1", "b2", "c3"))
    heads = (Head("model"), Head("x"))
    table = Table("t", heads, rows, sections=("coco", "coco", "a_b"))
    assert to_latex(table).splitlines()[-10:-3] == [
        r"\midrule",
        r"\multicolumn{2}{@{}l@{}}{\textit{coco}} \\",
        r"a & 1 \\",
        r"b & 2 \\",
        r"\addlinespace",
        r"\multicolumn{2}{@{}l@{}}{\textit{a\_\allowbreak{}b}} \\",
        r"c & 3 \\",
    ]


def test_tables_are_as_wide_as_their_columns_of_the_paper():
    """Ten numbers such as 50.0 are about 10 x (18 + 8) points wide at 9 points, and 10 x (16 + 6)
    at 8 points, beside names of about 40 points."""
    rows = ((Cell("model a"), *[Cell("50.0")] * 10),)
    heads = (Head("model"), *[Head("IoU")] * 10)
    texts = {columns: to_latex(Table("t", heads, rows), columns) for columns in (None, 1, 2)}
    floats = {c: re.findall(r"\\begin\{(table\*?)\}", text) for c, text in texts.items()}
    # About 300, 260 and 300 points of 345, 235 and 497; fifteen numbers have 430. Ten rows of one
    # number fit into a column of a paper.
    assert floats == {None: ["table*"], 1: ["table"], 2: ["table*"]}
    assert [len(row) for row in rows_of(texts[1])] == [2] * 10
    assert [r"\footnotesize" in texts[c] for c in (None, 1, 2)] == [False, True, False]
    wide = Table("t", (*heads, *heads[1:6]), ((*rows[0], *rows[0][1:6]),))
    assert [to_latex(wide, c).count(r"\end{table") for c in (None, 2)] == [2, 1]


NUMBER = Cell("50.0")


def test_columns_of_the_same_models_come_into_one_table():
    """15 numbers of 26 points are too wide beside a name. Data sets 1 and 3 have the models a and
    b, and data set 2 the model c, so that 10 and 5 columns are left. Empty cells need no table."""
    heads = [Head("model")]
    for dataset in ("one", "two", "three"):
        heads += [Head("IoU", dataset)] * 5
    first_rows = [(Cell(name), *[NUMBER] * 5, *[Cell()] * 5, *[NUMBER] * 5) for name in "ab"]
    last_row = (Cell("c"), *[Cell()] * 5, *[NUMBER] * 5, *[Cell()] * 5)
    text = to_latex(Table("t", tuple(heads), (*first_rows, last_row)))
    first, second = text.split(r"\end{tabular}")[:2]
    assert re.findall(r"multicolumn\{(\d+)\}\{c\}\{(\w+)\}", first) == [
        ("5", "one"),
        ("5", "three"),
    ]
    assert re.findall(r"multicolumn\{(\d+)\}\{c\}\{(\w+)\}", second) == [("5", "two")]
    assert [(row[0], len(row)) for row in rows_of(text)] == [("a", 11), ("b", 11), ("c", 6)]


def test_words_are_abbreviated_before_a_table_of_one_column_is_split():
    """Four columns below "image to" have 4 x 39 points, and below "I2T" 4 x 24, at 8.5 points."""
    heads = [Head("model"), Head("source")]
    for dataset in ("coco-val2017", "flickr30k-val"):
        heads += [
            Head(f"{direction} R@1", dataset) for direction in ("image to text", "text to image")
        ]
    name = "openclip:ViT-B-32/laion2b_s34b_b79k"
    published = Cell("published", url="https://a.b")
    rows = ((Cell(name), published, *[NUMBER] * 4), (Cell(name), Cell("measured"), *[NUMBER] * 4))
    table = Table("t", tuple(heads), rows, n_text_columns=2, notes=("Bold: the best.",))
    narrow = to_latex(table, 1)
    assert narrow.count(r"\end{table}") == 1
    assert (
        "{t. Bold: the best. p: published, m: measured, I2T: image to text, T2I: text to image. "
        r"{[}1{]} https:/\allowbreak{}/\allowbreak{}a.b}"
    ) in narrow
    header = re.search(r"(?s)\\toprule\n(.*?)\\midrule", narrow)[1]
    assert [line.split(" & ")[2:] for line in header.splitlines() if "rule" not in line] == [
        [r"\multicolumn{2}{c}{coco-}", r"\multicolumn{2}{c}{flickr30k-} \\"],
        [r"\multicolumn{2}{c}{val2017}", r"\multicolumn{2}{c}{val} \\"],
        ["I2T", "T2I", "I2T", r"T2I \\"],
        ["R@1", "R@1", "R@1", r"R@1 \\"],
    ]
    assert [row[1] for row in rows_of(narrow)] == ["p {[}1{]}", "m"]
    # Nothing is abbreviated if there is room: across both columns.
    assert "I2T" not in to_latex(table, 2)
    assert "image to & text to & image to & text to" in to_latex(table, 2)


def test_rows_become_columns_before_a_table_of_one_column_is_split():
    """A model with ten data sets: ten rows with the names of data sets."""
    heads = [Head("model"), *[Head("mIoU", f"set{number} (cosmos)") for number in range(10)]]
    rows = ((Cell("openclip:ViT-B-16/openai"), *[Cell(f"{number}.0") for number in range(10)]),)
    table = Table("t", tuple(heads), rows)
    text = to_latex(table, 1)
    assert text.count(r"\end{table}") == 1
    assert rows_of(text) == [[f"set{n} (cosmos)", "mIoU", f"{n}.0"] for n in range(10)]
    assert [line.strip() for line in text.partition(r"\midrule")[0].splitlines()[-4:]] == [
        *(
            r"\toprule",
            r"&  & openclip: \\",
            r"&  & ViT-B-16/ \\",
            r"data set & metric & openai \\",
        ),
    ]


def test_names_may_need_exactly_the_room_that_numbers_leave():
    """Six rows of three models: the names of data sets are broken so that all fit."""
    heads = [Head("model")]
    for dataset in ("scenes-seg", "scenes-seg-small"):
        heads += [Head(title, dataset) for title in ("mIoU", "mIoU things", "mIoU stuff")]
    models = ("scenes-clip", "scenes-clip-long", "scenes-cosmos")
    rows = tuple((Cell(model), *[NUMBER] * 6) for model in models)
    text = to_latex(Table("t", tuple(heads), rows), 1)
    assert [len(row) for row in rows_of(text)] == [5] * 6
    assert text.count(r"\end{table}") == 1


def test_only_the_first_of_several_tables_has_less_room_for_its_notes():
    """The notes, 100 lines in a column of a paper, need a page, which has one row. The other 89
    rows of 9.5 points need two pages of 490 points."""
    rows = tuple((Cell(f"model {number}"), NUMBER) for number in range(90))
    notes = ("A note of about forty characters of text. " * 100,)
    text = to_latex(Table("t", (Head("model"), Head("IoU")), rows, notes=notes), 1)
    n_rows = [len(rows_of(page)) for page in text.split(r"\end{table}") if "midrule" in page]
    assert n_rows == [1, 45, 44]


def test_names_are_broken_before_a_table_is_split():
    name = "openclip:ViT-B-32/laion2b_s34b_b79k"  # about 160 points at 8 points
    rows = ((Cell(name), *[Cell("50.0")] * 5),)
    text = to_latex(Table("t", (Head("model"), *[Head("IoU")] * 5), rows), 1)
    assert text.count(r"\end{table}") == 1
    assert re.search(r"tabular\}\{@\{\}p\{\d+pt\}rrrrr@", text)


@needs_latex
def test_a_paper_of_two_columns_with_tables_and_a_figure_compiles_and_fits(
    tmp_path, command, comparison
):
    results = read_checked(result_paths(RESULTS))
    measured = entries_of(results)
    all_entries = headline_entries([*measured, *published_beside(measured)])
    file = tmp_path / "two.yaml"
    file.write_text(SUITE)
    suite = suite_score(read_score(str(file)), measured)
    floats = []
    for columns in (1, 2):
        options = TableOptions(paper_columns=columns, caption=True)
        floats.append(to_latex(comparison_table(comparison, options), columns))
        many_marks = options._replace(second=True, ranks=True)
        floats.append(to_tex(Leaderboard(all_entries, facts=True, options=many_marks)))
        transposed = options._replace(transpose=True)
        floats.append(to_tex(Leaderboard(measured, suite=suite, options=transposed)))
    body = "\n".join(floats).replace(r"\end{table}", "\\end{table}\n\\clearpage")
    assert command("plot", "compare", RESULTS, *MODELS, "--output", "figure.pdf").status == 0
    body += r"\begin{figure}\includegraphics{figure.pdf}\caption{Differences.}\end{figure}"
    log = compiled(tmp_path, body)
    assert [line for line in log.splitlines() if "Overfull" in line or "too large" in line] == []


def half_up(fraction: float) -> str:
    """A fraction in percent with one decimal, as people round."""
    return str((100 * Decimal(repr(fraction))).quantize(Decimal("0.1"), ROUND_HALF_UP))


def rows_of(text: str) -> list[list[str]]:
    """The rows of numbers of LaTeX tables, without phantoms; sections have a single cell."""
    bodies = re.findall(r"(?s)\\midrule\n(.*?)\\bottomrule", text)
    lines = [line for body in bodies for line in body.splitlines() if line != r"\addlinespace"]
    return [line.removesuffix(r" \\").split(" & ") for line in lines]


def test_a_comparison_has_the_primary_metrics_of_its_json(command):
    tests = json.loads(command("compare", RESULTS, *MODELS, "--json").out)["tests"]
    primary = [test for test in tests if test["p_value_holm"] is not None]
    expected = []
    for (dataset, protocol), group in groupby(primary, itemgetter("dataset", "protocol")):
        expected.append((f"{dataset} ({protocol})",))
        for test in group:
            low, high = test["interval"]["low"], test["interval"]["high"]
            cells = [half_up(test[side]) for side in "ab"]
            half_width = max(high - test["difference"], test["difference"] - low)
            expected.append((*cells, f"+{half_up(test['difference'])}", 100 * half_width))

    ended = command("compare", RESULTS, *MODELS, "--format", "tex", "--columns", "1")
    assert not ended.out.startswith("A:")
    rows = []
    for row in rows_of(ended.out):
        if len(row) == 1:
            rows.append((re.search(r"\\textit\{(.*)\}\}", row[0])[1],))
            continue
        _, a, b, change, _ = row
        plain = [re.sub(r"\\textbf\{(.*)\}", r"\1", cell) for cell in (a, b)]
        number, interval = change.split(r"\,")
        rows.append((*plain, number, float(re.search(r"[\d.]+", interval.split("pm")[1])[0])))
    assert len(rows) == len(expected) == 22
    for row, expected_row in zip(rows, expected, strict=True):
        assert row[:3] == expected_row[:3]
        assert len(row) == 1 or row[3] == pytest.approx(expected_row[3], abs=0.1)


def only(comparison, *metrics):
    tests = tuple(test for test in comparison.tests if test.metric in metrics)
    return comparison._replace(tests=tests)


def test_the_better_side_is_bold_and_p_values_are_corrected(comparison):
    """The numbers of docs/comparing.md."""
    accuracies = only(comparison, "acc1")
    narrow_table = to_latex(comparison_table(accuracies, TableOptions(paper_columns=1)))
    wide_table = to_latex(comparison_table(accuracies, TableOptions(paper_columns=2)))
    small = r"\textless{}$10^{-6}$"
    assert rows_of(narrow_table)[1::2] == [
        ["acc1", r"\textbf{94.2}", "79.8", r"+14.4\,{\scriptsize $\pm$3.7}", small],
        ["acc1", "89.6", "86.8", r"+2.8\,{\scriptsize $\pm$3.1}", "0.28"],
    ]
    assert [row[-3:] for row in rows_of(wide_table)[1::2]] == [
        [small, small, "6.9"],
        ["0.092", "0.28", "5.8"],
    ]
    caption = r"\caption[{scenes-cosmos (A) and scenes-clip-long (B) (\%), protocol scenes}]"
    assert caption in narrow_table
    assert "Detectable" not in narrow_table
    assert "Detectable: the true difference" in wide_table


def test_metrics_that_are_not_primary_have_a_p_value_without_correction(comparison):
    ranks = only(comparison, "image_to_text_mean_rank")
    text = to_latex(comparison_table(ranks, TableOptions(paper_columns=1)), 1)
    assert r"metric & A & B & A $-$ B & p \\" in text
    assert "Holm" not in text
    assert r"(\%)" not in text
    options = TableOptions(paper_columns=2, intervals=False)
    text = to_latex(comparison_table(only(comparison, "acc1", "acc5"), options))
    assert r"metric & A & B & A $-$ B & p & p (Holm) & detectable \\" in text
    assert [row[:-1] for row in rows_of(text)][1:3] == [
        ["acc1", r"\textbf{94.2}", "79.8", "+14.4", *[r"\textless{}$10^{-6}$"] * 2],
        ["acc5", "99.8", "99.4", "+0.4", "0.5", "--"],  # two images: 2 x 0.5^2
    ]


def test_the_caption_of_a_comparison_states_samples_tests_and_the_version(comparison):
    three = only(comparison, "acc1", "mIoU", "accuracy")
    notes = comparison_table(three, TableOptions(caption=True)).notes
    assert " ".join(notes[-3:]) == (
        "n = 500 samples. Paired tests and their 95% intervals: exact McNemar test, interval of "
        "Agresti and Min (2005) for acc1; jackknife over images with Student's t for mIoU; "
        "bootstrap over images, 2,000 resamples for accuracy. We measured with cosmos-eval 1.1.0 "
        "(protocol scenes); intervals cover test images, not seeds."
    )


def test_the_caption_of_a_leaderboard_states_samples_intervals_and_versions():
    wilson = {"low": 0.1, "high": 0.5, "method": "wilson", "level": 0.95}
    jackknife = {"low": 0.1, "high": 0.5, "method": "jackknife t", "level": 0.9}
    rows = [
        make_row(intervals={"acc1": wilson}),
        make_row({"version": "0.2.0"}, dataset="b", n_samples=1234, intervals={"acc1": wilson}),
        make_row(dataset="c", task="seg", metrics={"mIoU": 0.4}, intervals={"mIoU": jackknife}),
    ]
    options = TableOptions(caption=True)
    captions = re.findall(
        r"\\caption.*", to_tex(Leaderboard(entries_of_rows(rows), options=options))
    )
    endings = [re.search(r"n = .*", caption)[0] for caption in captions]
    assert endings == [
        "n = 1,234 (b), 4 (scenes-cls) samples. 95\\% intervals: Wilson score for acc1. "
        "We measured with cosmos-eval 0.1.0 and 0.2.0 (protocol scenes); intervals cover test "
        "images, not seeds.}",
        "n = 4 samples. 90\\% intervals: jackknife over images with Student's t for mIoU. "
        "We measured with cosmos-eval 0.1.0 (protocol scenes); intervals cover test images, "
        "not seeds.}",
    ]
    assert "each model was trained once" not in "".join(captions)


def test_only_captions_that_state_methods_bring_intervals_to_latex(command):
    arguments = ("leaderboard", RESULTS, "--datasets", "scenes-seg", "--format", "tex")
    assert r"$\pm$0.8" not in command(*arguments).out
    assert r"$\pm$0.8" in command(*arguments, "--caption").out
    without = command(*arguments, "--caption", "--no-intervals").out
    assert r"$\pm$0.8" not in without
    assert "n = 500 samples. We measured" in without


def test_sizes_are_stated_once_if_they_are_equal():
    assert sizes_sentence([("a", 500), ("b", 500), ("a", 500)]) == "n = 500 samples."
    sizes = [("a", 500), ("b", 2000), ("c", 500)]
    assert sizes_sentence(sizes) == "n = 500 (a, c), 2,000 (b) samples."


def test_methods_of_many_metrics_are_not_listed():
    many = [(f"m{number}", "bootstrap") for number in range(7)]
    assert methods_sentence("Intervals", many) == "Intervals: bootstrap for all metrics."
    two_methods = [many[0], ("acc1", "Wilson"), *many[1:]]
    sentence = "Tests: Wilson for acc1; bootstrap for the other metrics."
    assert methods_sentence("Tests", two_methods) == sentence
    few = [*many[:2], ("acc1", "Wilson"), many[2]]
    assert methods_sentence("Tests", few) == "Tests: bootstrap for m0, m1 and m2; Wilson for acc1."


def test_every_method_has_a_name_for_papers():
    """The methods of intervals are those of docs/intervals.md, and of all metrics of all tasks."""
    page = (ROOT / "docs" / "intervals.md").read_text("utf-8").partition("## How often")[0]
    documented = set(re.findall(r"\| `([^`]*)` \|$", page, re.MULTILINE))
    documented |= set(re.findall(r"^- `(exact, [^`]*)`", page, re.MULTILINE))
    assert len(documented) == 14
    assert documented <= set(INTERVAL_METHODS)
    for task in (
        "cls",
        "retrieval",
        "multilabel",
        "faces",
        "seg",
        "select",
        "loc",
        "assoc",
        "ratings",
        "probe",
        "ood",
        "boxes",
        "ranking",
    ):
        a, b = make_result(task, 0.7, 1), make_result(task, 0.5, 2)
        assert {i["method"] for i in a[0].intervals.values()} <= set(INTERVAL_METHODS)
        assert {d.method for d in paired_differences(*a, *b).values()} <= set(TEST_METHODS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("leaderboard", RESULTS, "--columns", "1"), "are for LaTeX: add --format tex"),
        (("leaderboard", RESULTS, "--caption", "--json"), "are for LaTeX: add --format tex"),
        (("compare", RESULTS, *MODELS, "--columns", "2"), "are for LaTeX: add --format tex"),
        (("compare", RESULTS, *MODELS, "--format", "tex", "--sort", "p"), "neither --plan nor"),
        (("leaderboard", RESULTS, "--format", "tex", "--columns", "3"), "less than or equal to 2"),
    ],
)
def test_options_that_a_format_does_not_have_are_refused(command, arguments, message):
    ended = command(*arguments)
    assert ended.status == 2
    assert message in ended.err
    assert ended.out == ""
