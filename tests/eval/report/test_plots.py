"""`cosmos-eval plot`: figures show the numbers of the result files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex
from PIL import Image

from cosmos_eval.reporting.plots.comparison import draw_comparison
from cosmos_eval.reporting.plots.cost import draw_costs
from cosmos_eval.reporting.plots.curves import draw_curves
from cosmos_eval.reporting.plots.leaderboard import draw_leaderboard
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.leaderboard.entries import entries_of
from cosmos_eval.results.sides import read_comparison
from cosmos_eval.results.store import result_paths

RESULTS = Path(__file__).parents[3] / "results"
MODELS = ("scenes-clip", "scenes-clip-long", "scenes-cosmos")


def stored(model: str, dataset: str) -> dict:
    return json.loads((RESULTS / f"{model}__{dataset}__scenes.json").read_text())


def entries(*datasets: str) -> list:
    all_entries = entries_of(read_checked(result_paths(RESULTS)))
    return [
        entry for entry in all_entries if entry.dataset in datasets and not entry.has_other_settings
    ]


def test_bars_are_the_stored_metrics_and_whiskers_the_intervals():
    figure = draw_leaderboard(entries("scenes-cls", "scenes-seg"), columns=1)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["scenes-cls\nscenes\nacc1 (%)", "scenes-seg\nscenes\nmIoU (%)"]
    for (title, metric), dataset in zip(
        [("scenes-cls\nscenes\nacc1 (%)", "acc1"), ("scenes-seg\nscenes\nmIoU (%)", "mIoU")],
        ["scenes-cls", "scenes-seg"],
        strict=True,
    ):
        widths = [bar.get_width() for bar in panels[title].patches]
        whiskers = [list(line.get_xdata()) for line in panels[title].lines]
        records = [stored(model, dataset) for model in MODELS]
        assert widths == pytest.approx([100 * record["metrics"][metric] for record in records])
        intervals = [record["intervals"][metric] for record in records]
        assert whiskers == [
            pytest.approx([100 * interval["low"], 100 * interval["high"]]) for interval in intervals
        ]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == list(MODELS)


def test_a_model_has_one_row_though_tables_of_localisation_name_its_map():
    figure = draw_leaderboard(entries("scenes-cls", "scenes-loc"), columns=2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(MODELS)


def test_points_are_the_paired_differences_in_the_colour_of_the_better_side():
    comparison = read_comparison(RESULTS, models=["scenes-cosmos", "scenes-clip-long"])
    figure = draw_comparison(comparison, columns=2)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    points = {}
    for line in axes.lines:
        if line.get_marker() == "o":
            row = int(line.get_ydata()[0])
            dataset = next(label for label in reversed(labels[:row]) if "(" in label)
            points[dataset, labels[row]] = (line.get_xdata()[0], to_hex(line.get_color()))
    for dataset, metric, colour in [
        ("scenes-cls", "acc1", "#7f7f7f"),  # not significant after Holm's correction
        ("scenes-seg", "mIoU", "#0072b2"),
    ]:
        a, b = (stored(model, dataset)["metrics"][metric] for model in MODELS[:0:-1])
        value, drawn_colour = points[f"{dataset} (scenes)", metric]
        assert value == pytest.approx(100 * (a - b))
        assert drawn_colour == colour
    assert figure.get_suptitle() == "A: scenes-cosmos\nB: scenes-clip-long"


def test_points_of_costs_and_the_front():
    figure = draw_costs(entries("scenes-cls"), columns=1)
    (axes,) = figure.axes
    points = [
        (line.get_xdata()[0], line.get_ydata()[0], to_hex(line.get_color()))
        for line in axes.lines
        if line.get_marker() == "o"
    ]
    # All three have the same cost: only the best is on the front.
    colours = {"scenes-clip": "#7f7f7f", "scenes-clip-long": "#7f7f7f", "scenes-cosmos": "#0072b2"}
    records = {model: stored(model, "scenes-cls") for model in MODELS}
    assert points == [
        (record["model"]["facts"]["image_gflops"], 100 * record["metrics"]["acc1"], colours[model])
        for model, record in records.items()
    ]
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    low, high = axes.get_ylim()
    assert heights["scenes-cosmos"] - heights["scenes-clip-long"] >= 0.059 * (high - low)


def write_log(folder: Path, losses: list[float]) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"step": 10 * index, "clip": loss, "total": loss, "lr": 0.1 / (1 + index)}
        for index, loss in enumerate(losses)
    ]
    lines.append({"step": 10, "evaluation": {"scenes-cls/teacher/acc1": 0.25}})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "log.jsonl").write_text(text)
    return folder


def test_curves_of_several_trainings(tmp_path):
    first = write_log(tmp_path / "first", [3.0, 2.0])
    second = write_log(tmp_path / "second", [4.0, 1.0])
    figure = draw_curves([first, second / "log.jsonl"], columns=1)
    loss, evaluation = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[3.0, 2.0], [4.0, 1.0]]
    assert loss.lines[0].get_color() != loss.lines[1].get_color()
    assert [list(line.get_ydata()) for line in evaluation.lines] == [[0.25], [0.25]]
    assert [text.get_text() for text in figure.legends[0].texts] == ["first", "second"]
    titles = [axes.get_title() for axes in draw_curves([first], 2, all_panels=True).axes]
    assert "learning rate" in titles
    # Two folders of one name are told apart by their paths.
    other = write_log(tmp_path / "other" / "first", [1.0, 1.0])
    figure = draw_curves([first, other], columns=1)
    assert len({text.get_text() for text in figure.legends[0].texts}) == 2


def test_means_over_a_suite(tmp_path, command):
    suite = tmp_path / "own.yaml"
    suite.write_text("datasets: {scenes: [scenes-cls, scenes-cls-small]}\nscore: {metric: acc1}\n")
    figure = tmp_path / "suite.svg"
    assert command("plot", "suite", RESULTS, "--suite", suite, "--output", figure).status == 0
    ids = {element.get("id", "") for element in ElementTree.parse(figure).iter()}
    assert any(name.startswith("patch_") for name in ids)


@pytest.mark.parametrize(
    ("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")]
)
def test_files_are_equal_each_time_and_as_wide_as_a_column(tmp_path, command, suffix, start):
    contents = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.{suffix}"
        command(
            *("plot", "leaderboard", RESULTS, "--datasets", "scenes-cls"),
            *("--protocols", "scenes", "--output", path),
        )
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(start)
    assert b"/Type3" not in contents[0]  # fonts that conferences refuse
    if suffix == "png":
        with Image.open(path) as picture:
            assert picture.width == round(3.25 * 300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("leaderboard", RESULTS, "--output", "f.jpg"), "ends with .pdf, .svg, .png"),
        (
            ("leaderboard", RESULTS, "--protocols", "*", "--models", "*", "--output", "f.pdf"),
            "choose with --datasets",
        ),
        (("leaderboard", RESULTS, "--metrics", "ece", "--output", "f.pdf"), "nothing to draw"),
        (("scaling", RESULTS, "--protocols", "*", "--output", "f.pdf"), "a page has room for"),
        (("compare", RESULTS, "--output", "f.pdf"), "--model or --group twice"),
        (("compare", RESULTS, "--same-seeds", "--output", "f.pdf"), "--same-seeds needs --group"),
        (("curves", "nowhere", "--output", "f.pdf"), "name the folder of a training"),
    ],
)
def test_requests_that_cannot_be_drawn_are_refused_in_one_line(
    tmp_path, command, arguments, message
):
    printed = command("plot", *arguments)
    assert printed.status == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
