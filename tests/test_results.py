"""The committed results, and tables of them in documents."""

import importlib.util
import itertools
import re
import runpy
import shlex
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from cosmos_eval import __version__, read_results, scaling
from cosmos_eval.cli.app import main
from cosmos_eval.results.store import read_result, read_samples
from cosmos_eval.results.verify import verify_all
from cosmos_eval.tasks import task_named

ROOT = Path(__file__).parents[1]
MAPS = "benchmarks/study/maps.md"


@pytest.fixture(scope="module")
def results():
    return read_results(ROOT / "results")


@pytest.fixture
def script_output(capsys, monkeypatch):
    """Run a script of benchmarks/ in this process; return what it prints."""

    def run(name, *arguments):
        program = str(ROOT / "benchmarks" / name)
        monkeypatch.setattr("sys.argv", [program, *arguments])
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        runpy.run_path(program, run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("script", "document", "name"),
    [
        ("localisation_table.py", MAPS, "localisation table"),
        ("localisation_table.py --forms", MAPS, "table of forms"),
        ("localisation_table.py --trainings TRAININGS", MAPS, "table of trainings"),
        ("pairs_table.py", "docs/pair-scores.md", "pairs table"),
    ],
)
def test_documents_show_what_the_results_say(script_output, script, document, name):
    trainings = str(ROOT / "benchmarks" / "study" / "trainings")
    name_of_script, *options = script.replace("TRAININGS", trainings).split()
    table = script_output(name_of_script, str(ROOT / "results"), *options)
    shown = (ROOT / document).read_text("utf-8")
    assert f"<!-- {name} -->\n\n{table}\n<!-- end of {name} -->" in shown


def printed(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command))
    assert not ended.value.code
    return capsys.readouterr().out


def test_a_page_shows_what_the_leaderboard_prints(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "results/README.md").read_text("utf-8")
    (command,) = re.findall(r"(?m)`cosmos-eval (leaderboard results --format md .*)`:$", page)
    table = printed(capsys, command)
    assert f"<!-- scenes table -->\n\n{table}\n<!-- end of scenes table -->" in page


def claims(section, page="study/claims.md"):
    """Return the tests in a section of a page of claims: cells by comparison and metric."""
    text = (ROOT / "benchmarks" / page).read_text("utf-8")
    lines = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    header, _, *tests = rows
    return {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in tests}


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("study_claims.py", "study/claims.md"),
        ("study_claims.py FOLDER/scenes2/family.yaml", "scenes2/claims.md"),
        ("study_claims.py FOLDER/scenes2/family_beside.yaml", "scenes2/claims_beside.md"),
        (
            "study_claims.py FOLDER/scenes2/family.yaml --without-seed 0",
            "scenes2/claims_without_seed_0.md",
        ),
        ("scenes2_report.py", "scenes2/table.md"),
        ("scenes2_control.py", "scenes2/control.md"),
        ("scenes2_order.py", "scenes2/order.md"),
        ("scenes2_ladder.py", "scenes2/ladder.md"),
    ],
)
def test_the_pages_of_the_studies_follow_from_their_results(script_output, command, page):
    folder = ROOT / "benchmarks"
    name_of_script, *arguments = command.replace("FOLDER", str(folder)).split()
    assert script_output(name_of_script, *arguments) == (folder / page).read_text("utf-8")


def section_of_study_page(title):
    """Return a section of docs/study.md in one line."""
    page = (ROOT / "docs/study.md").read_text("utf-8")
    assert f"\n## {title}\n" in page
    return " ".join(page.partition(f"\n## {title}\n")[2].partition("\n## ")[0].split())


def differences_in(text):
    """Return the differences with intervals in a text, such as "+4.7 [+2.6, +6.7]"."""
    return re.findall(r"[+-][0-9.]+ \[[^]]*\]", text)


def significant(tests, comparison):
    """Return the metrics in which the first method of a comparison is significantly higher."""
    metrics = set()
    for (name, metric), cells in tests.items():
        if name == comparison and cells["shown"] == "A higher":
            metrics.add(metric)
    return metrics


WORDS = ("kind", "colour", "place")
RETRIEVAL = {"R@1 image to text", "R@1 text to image"}


def test_the_page_on_the_first_study_claims_what_its_tests_show():
    section = section_of_study_page("The first study")
    differences, equivalences = claims("Differences"), claims("Equivalences")
    without_seed_0 = claims("Differences without seed 0")
    figures = differences_in(section)
    assert len(figures) >= 9
    tests = [*differences.values(), *without_seed_0.values()]
    assert set(figures) <= {cells["A - B [95%]"] for cells in tests}
    assert f"{len(differences) + len(equivalences)} tests" in section

    tuned = {"mIoU, tuned", "mIoU, things, tuned"}
    for title in ("multi-view CLIP", "CLIP"):
        assert significant(differences, f"COSMOS minus {title}") == {*RETRIEVAL, "acc1", *tuned}
    n_shown = sum(cells["shown"] != "no" for cells in differences.values())
    assert n_shown == 2 * 5  # none at equal compute, by fixed settings, or of the cross-attention
    assert {cells["within 1 point"] for cells in equivalences.values()} == {"no"}
    assert significant(without_seed_0, "COSMOS minus multi-view CLIP") == {"acc1"}
    assert significant(without_seed_0, "COSMOS minus CLIP") == {*RETRIEVAL, "acc1"}


def test_the_page_on_the_study_of_suppression_claims_what_its_tests_show():
    section = section_of_study_page("Do dominant things suppress small ones?")
    differences = claims("Differences", "scenes2/claims.md")
    equivalences = claims("Equivalences", "scenes2/claims.md")
    losses = claims("Differences", "scenes2/claims_beside.md")
    figures = differences_in(section)
    assert len(figures) >= 15
    tests = [*differences.values(), *losses.values()]
    control = (ROOT / "benchmarks/scenes2/control.md").read_text("utf-8")
    figures_of_control = [figure for figure in figures if f"| {figure} |" in control]
    assert set(figures) <= {*(cells["A - B [95%]"] for cells in tests), *figures_of_control}
    assert len(figures_of_control) == 4
    assert f"{len(differences) + len(equivalences)} tests" in section
    assert f"{len(losses)} tests" in section

    gains = {*RETRIEVAL, "acc1", "mIoU, tuned", "accuracy on siblings"}
    for title in ("CLIP", "SLIP", "SILC", "SigLIP", "FLAIR", "multi-view CLIP"):
        assert gains <= significant(differences, f"COSMOS minus {title}")
    larger_on_both = {"suppression", "accuracy on small things"}
    assert larger_on_both <= significant(differences, "COSMOS minus CLIP")
    equal_compute = {"CLIP": {"acc1", "mIoU, tuned"}, "multi-view CLIP": {"mIoU, tuned"}}
    for title, metrics in equal_compute.items():
        assert significant(differences, f"COSMOS minus {title}, equal compute") == metrics
    title = "COSMOS minus COSMOS without cross-attention"
    assert significant(differences, title) == {"mIoU, tuned"}
    assert {cells["shown"] for cells in differences.values()} == {"A higher", "no"}
    assert {cells["within 1 point"] for cells in equivalences.values()} == {"no"}
    assert {cells["shown"] for cells in losses.values()} == {"no"}

    without_seed_0 = claims("Differences without seed 0", "scenes2/claims_without_seed_0.md")
    counts = [
        sum(cells["shown"] == "A higher" for cells in tests.values())
        for tests in (without_seed_0, differences)
    ]
    assert f"[{counts[0]} of {len(without_seed_0)} differences]" in section
    assert f"are shown and not {counts[1]}, none on small things" in section
    on_small_things = [
        cells for (_, metric), cells in without_seed_0.items() if metric.endswith("small things")
    ]
    assert {cells["shown"] for cells in on_small_things} == {"no"}


def test_ranges_of_the_study_of_suppression_are_those_of_its_table():
    section = section_of_study_page("Do dominant things suppress small ones?")
    tables = (ROOT / "benchmarks/scenes2/table.md").read_text("utf-8")
    means = {}
    for table in tables.split("\n\n"):
        lines = [line.strip("| ").split(" | ") for line in table.splitlines() if "|" in line]
        for column, *cells in zip(*lines, strict=True) if lines else ():
            means.setdefault(column, [cell.split()[0] for cell in cells[1:]])

    def least_and_largest(column):
        values = sorted(means[column], key=float)
        return values[0], values[-1]

    assert (
        "for {} to {}% of small things beside".format(*least_and_largest("beside a large thing"))
        in section
    )
    assert "large thing, {} to {} points less".format(*least_and_largest("loss")) in section
    assert "about {} to {}% of dominant".format(*least_and_largest("dominant")) in section
    assert "but {} to {}% of small ones".format(*least_and_largest("small")) in section
    assert "only {} to {}% of small kinds".format(*least_and_largest("kind, small")) in section
    assert "lose {} to {} points of these".format(*least_and_largest("loss, kind")) in section
    largest = max(map(abs, map(float, means["suppression, control"])))
    assert f"at most {largest} points of this difference" in section


def test_the_page_on_the_parts_of_cosmos_says_what_the_ladder_shows():
    section = section_of_study_page("What each part of COSMOS brings")
    page = (ROOT / "benchmarks/scenes2/ladder.md").read_text("utf-8")
    table = page.partition("## Steps\n\n")[2].partition("\n\n")[0]
    header, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    steps = {name.removeprefix("+ "): cells for name, *cells in rows}
    first = {title: header.index(title) - 1 for title in header[1:]}
    captions = steps.pop("text augmentation")
    titles = ("R@1 image to text", "accuracy on small things", "acc1")
    others_shown = [
        steps["image augmentation"][first["accuracy on siblings"]],
        steps["image self-distillation"][first["acc1"]],
    ]
    assert differences_in(section) == [*(captions[first[title]] for title in titles), *others_shown]
    assert f"(paper, COCO: {captions[first['paper']]})" in section

    retrieval = [
        cells[first[title] : first[title] + 3] for cells in steps.values() for title in RETRIEVAL
    ]
    assert all(sign.endswith(", not shown") for _, _, sign in retrieval)
    low, *_, high = sorted((cell.split()[0] for cell, _, _ in retrieval), key=float)
    paper_low, *_, paper_high = sorted((paper for _, paper, _ in retrieval), key=float)
    assert f"they are {low} to {high} (paper: {paper_low} to {paper_high})" in section
    intervals = [cell for cells in steps.values() for cell in cells if "[" in cell]
    shown = [cell for cell in intervals if "[+" in cell or ", -" in cell]
    assert (f"Of the {len(intervals)} intervals" in section, shown) == (True, others_shown)


def test_the_page_on_laws_of_scale_shows_what_the_stored_trainings_give(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/scaling.md").read_text("utf-8")
    command, example = re.search(
        r"```sh\ncosmos-eval (scaling [^\n]*)\n```\n\n```text\n(.*?)```", page, re.DOTALL
    ).groups()
    paths = [
        str(path) for path in sorted(ROOT.glob("benchmarks/scenes2/scaling/*/*siblings*.json"))
    ]
    shell_pattern = "benchmarks/scenes2/scaling/*/*siblings*.json"
    assert shell_pattern in command
    output = printed(capsys, command.replace(shell_pattern, shlex.join(paths)))
    for part in example.split("...\n"):
        assert part in output
    # Folders such as cosmos-625-steps-seed-0.
    n_seeds = Counter(Path(path).parent.name.rpartition("-seed-")[0] for path in paths)
    assert len(n_seeds) == 10
    assert set(n_seeds.values()) == {3}
    assert "three of CLIP and three of COSMOS at each budget" in " ".join(page.split())


def test_the_page_on_laws_of_scale_names_the_laws_that_are_refused():
    trainings = ROOT / "benchmarks/scenes2/scaling"
    # `scaling` refuses to predict nothing, so that one metric with predictions is among them.
    report = scaling(trainings, metrics=("*R@1", "acc1", "accuracy"), hold_out="largest")
    p_values = {"scenes2-scaling-clip": [], "scenes2-scaling-cosmos": []}
    refused_metrics = set()
    for laws in report.laws:
        for method in laws.methods:
            if method.misfits:
                refused_metrics.add((laws.metric, method.name))
                p_values[method.name].append(method.fitted.misfit_p)
    page = " ".join((ROOT / "docs/scaling.md").read_text("utf-8").split())
    metrics = ("acc1", "image_to_text_R@1", "text_to_image_R@1")
    assert refused_metrics == set(itertools.product(metrics, p_values))
    clip, cosmos = p_values.values()
    assert (
        f"in acc1 and both R@1, of CLIP (p = {min(clip):.3f} to {max(clip):.3f}) and of COSMOS "
        f"(p = {min(cosmos):.5f} to {max(cosmos):.3f})" in page
    )


def test_suppression_exceeds_its_mean_over_words_by_what_the_limits_say():
    """Words have different numbers of questions about dominant and about small things."""
    page = (ROOT / "benchmarks/scenes2/table.md").read_text("utf-8")
    limits = " ".join((ROOT / "benchmarks/scenes2/README.md").read_text("utf-8").split())

    def means(title):
        table = page.partition(f"{title}\n\n")[2].partition("\n\n")[0]
        header, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
        for row in rows:
            yield {
                key: float(cell.split()[0]) for key, cell in zip(header[1:], row[1:], strict=True)
            }

    largest = []
    for column, title in (
        ("suppression", "## By word"),
        ("suppression, control", "## By word, dominant thing as small as the others"),
    ):
        excesses = []
        for overview, by_word in zip(means("No test is made here."), means(title), strict=True):
            words = [by_word[f"{word}, dominant"] - by_word[f"{word}, small"] for word in WORDS]
            excesses.append(abs(overview[column] - sum(words) / len(words)))
        largest.append(f"{max(excesses):.1f}")
    assert f"up to {largest[0]} points larger than its mean over words" in limits
    assert f"and up to {largest[1]} in the control" in limits


def test_other_pages_have_the_p_values_of_the_study():
    differences = claims("Differences")

    def p_holm(comparison, metric="mIoU, tuned"):
        return differences[f"COSMOS minus {comparison}", metric]["p (Holm)"]

    page = " ".join(
        (ROOT / "docs/reporting-intervals.md").read_text("utf-8").replace(">", "").split()
    )
    n_tests = len(differences) + len(claims("Equivalences"))
    p_value = p_holm("multi-view CLIP")
    assert f"p = {p_value} after Holm's correction for all {n_tests} tests of the study" in page
    log = " ".join((ROOT / "docs/log.md").read_text("utf-8").split())
    p_values = [p_holm(f"{title}, equal compute") for title in ("multi-view CLIP", "CLIP")]
    assert f"no metric passes (p = {p_values[0]} and {p_values[1]} for tuned mIoU)" in log


def test_results_are_of_this_version_and_its_methods():
    """Whoever runs the README's first command gets the intervals that are stored here; those of
    the large sets of one model stand for all, which were measured by one command."""
    for path in sorted((ROOT / "results").glob("*.json")):
        row = read_result(path)
        assert row.provenance["version"] == __version__, f"{path.name}: measure results/ again"
        assert "content" in row.provenance["hashes"], path.name
        if row.model["spec"] != "scenes-cosmos" or row.dataset.endswith("-small"):
            continue
        figures = task_named(row.task).figures(read_samples(path), row.provenance["seed"])
        assert figures.metrics == row.metrics, path.name
        intervals = {name: interval._asdict() for name, interval in figures.intervals.items()}
        assert intervals == row.intervals, path.name


@pytest.mark.parametrize(
    "name", ["terminal.png", "report.png", "report-pair.png", "report-examples.png"]
)
def test_pictures_show_the_results_that_are_stored(name):
    spec = importlib.util.spec_from_file_location("source", ROOT / "docs/tools/picture_source.py")
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    with Image.open(ROOT / "docs/pictures" / name) as picture:
        assert picture.text.get(source.KEY) == source.results_sha256(), f"draw {name} again"


def test_every_figure_follows_from_the_stored_samples(results):
    verdicts = list(verify_all([ROOT / "results"]))
    assert len(verdicts) == len(results)
    assert [verdict for verdict in verdicts if verdict.outcome != "verified"] == []


@pytest.mark.parametrize("dataset", ["scenes-retrieval", "scenes-cls", "scenes-seg"])
@pytest.mark.parametrize("small", ["", "-small"])
def test_cosmos_is_above_clip_beyond_the_intervals(results, dataset, small):
    cosmos, clip = (
        next(
            r
            for r in results
            if (r.model["spec"], r.dataset, r.protocol) == (model, dataset + small, "scenes")
        )
        for model in ("scenes-cosmos", "scenes-clip")
    )
    for metric in ("image_to_text_R@1", "text_to_image_R@1", "acc1", "mIoU", "mIoU_things"):
        if metric in cosmos.metrics:
            assert cosmos.intervals[metric]["low"] > clip.intervals[metric]["high"]
