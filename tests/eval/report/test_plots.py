"""`cosmos-eval plot`: figures show the numbers of the result files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image
from support.rows import make_row

from cosmos_eval.reporting.plots.comparison import draw_comparison
from cosmos_eval.reporting.plots.cost import draw_costs
from cosmos_eval.reporting.plots.curves import draw_curves
from cosmos_eval.reporting.plots.leaderboard import draw_leaderboard
from cosmos_eval.reporting.plots.style import paper_style, shorten_all
from cosmos_eval.reporting.plots.suite import draw_suite
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.leaderboard.entries import Entry, entries_of, entries_of_rows
from cosmos_eval.results.leaderboard.suite import score_models
from cosmos_eval.results.sides import read_comparison
from cosmos_eval.results.store import result_paths
from cosmos_eval.runner.suites import read_score

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


def made_up_entries(accuracies: dict[str, float], dataset: str = "scenes-cls") -> list[Entry]:
    """Return results with intervals of no width."""
    facts = json.loads((RESULTS / "scenes-clip__scenes-cls__scenes.json").read_text())["model"]
    rows = []
    for model, accuracy in accuracies.items():
        rows.append(
            make_row(
                model={"spec": model, "facts": facts["facts"]},
                dataset=dataset,
                metrics={"acc1": accuracy},
                intervals={"acc1": {"low": accuracy, "high": accuracy, "level": 0.95}},
            )
        )
    return entries_of_rows(rows)


def test_a_missing_result_differs_from_a_bar_of_zero_and_whiskers_have_caps():
    rows = [
        *made_up_entries({"a": 0.0, "b": 0.5}),
        *made_up_entries({"a": 0.5}, "scenes-cls-small"),
    ]
    figure = draw_leaderboard(rows, columns=1)
    panels = {axes.get_title().partition("\n")[0]: axes for axes in figure.axes}
    assert not panels["scenes-cls"].texts
    assert [line.get_marker() for line in panels["scenes-cls"].lines] == ["|", "|"]
    (text,) = panels["scenes-cls-small"].texts
    assert (text.get_text(), text.xy) == ("no result", (0, 1))
    assert "95% intervals" in figure.get_supxlabel()


def test_models_whose_names_differ_in_the_middle_have_different_labels():
    names = [f"openclip:ViT-{size}/laion2b_s34b_b88k" for size in ("B-16", "B-32", "L-14")]
    assert len(set(shorten_all(names, 22))) == 3
    assert shorten_all(["ViT-B-32/laion2b", "ViT-L-14/laion2b"], 9) == [
        "ViT-B...on2b",
        "ViT-L...on2b",
    ]
    assert shorten_all([names[0], names[0]], 11) == ["open...b88k"] * 2
    figure = draw_leaderboard(made_up_entries(dict.fromkeys(names, 0.5)), columns=1)
    assert len({label.get_text() for label in figure.axes[0].get_yticklabels()}) == 3


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
            # Without colours, too, it is seen which differences are significant.
            is_hollow = to_hex(line.get_markerfacecolor()) == "#ffffff"
            assert is_hollow == (to_hex(line.get_color()) == "#7f7f7f")
    for dataset, metric, colour in [
        ("scenes-cls", "acc1", "#7f7f7f"),  # not significant after Holm's correction
        ("scenes-seg", "mIoU", "#0072b2"),
    ]:
        a, b = (stored(model, dataset)["metrics"][metric] for model in MODELS[:0:-1])
        value, drawn_colour = points[f"{dataset} (scenes)", metric]
        assert value == pytest.approx(100 * (a - b))
        assert drawn_colour == colour
    assert figure.get_suptitle() == "A: scenes-cosmos\nB: scenes-clip-long"
    assert "blue: A is better; red: B is better" in figure.get_supxlabel()


def test_differences_of_metrics_of_which_lower_is_better_say_so():
    comparison = read_comparison(RESULTS, models=["scenes-cosmos", "scenes-clip-long"])
    figure = draw_comparison(comparison, columns=2, all_metrics=True)
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert "ECE (lower is better)" in labels
    assert "acc1" in labels


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


def test_of_many_models_only_the_front_is_named():
    accuracies = {f"model-{number}": number / 20 for number in range(11)}
    (axes,) = draw_costs(made_up_entries(accuracies), columns=1).axes
    assert [text.get_text() for text in axes.texts] == ["model-10"]
    del accuracies["model-0"]
    (axes,) = draw_costs(made_up_entries(accuracies), columns=1).axes
    assert len(axes.texts) == 10


def write_log(folder: Path, losses: list[float]) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {
            "step": 10 * index,
            "samples_seen": 640 * (1 + index),
            "clip": loss,
            "total": loss,
            "lr": 0.1 / (1 + index),
        }
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
    # Folders of one name are told apart by the folders that hold them.
    runs = [write_log(tmp_path / method / "run", [1.0, 1.0]) for method in ("clip", "cosmos")]
    figure = draw_curves(runs, columns=1)
    assert [text.get_text() for text in figure.legends[0].texts] == ["clip/run", "cosmos/run"]


def test_curves_of_more_trainings_than_colours_can_be_told_apart(tmp_path):
    name = "a-training-with-a-long-name-of-seed"
    runs = [write_log(tmp_path / f"{name}-{seed}", [3.0, 2.0]) for seed in range(10)]
    runs.append(write_log(tmp_path / "of-a-single-step", [3.0]))
    with paper_style():
        figure = draw_curves(runs, columns=1)
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
    lines = legend.get_lines()
    assert len({(to_hex(line.get_color()), line.get_marker()) for line in lines}) == 11
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    loss = figure.axes[0]
    assert loss.lines[-1].get_marker() not in ("", "None")  # a point without a line is seen
    assert all(tick == int(tick) for tick in loss.get_xticks())


def test_means_over_a_suite(tmp_path, command):
    suite = tmp_path / "own.yaml"
    suite.write_text("datasets: {scenes: [scenes-cls, scenes-cls-small]}\nscore: {metric: acc1}\n")
    figure = tmp_path / "suite.svg"
    assert command("plot", "suite", RESULTS, "--suite", suite, "--output", figure).status == 0
    ids = {element.get("id", "") for element in ElementTree.parse(figure).iter()}
    assert any(name.startswith("patch_") for name in ids)
    score = score_models(
        read_score(str(suite)),
        entries_of(read_checked(result_paths(RESULTS))),
        with_published=False,
        by_group=False,
        model_patterns=(),
    )
    (axes,) = draw_suite(score, columns=1).axes
    assert axes.get_xlabel() == "mean acc1 over 2 members of own, %"
    harmonic = score._replace(suite=score.suite._replace(is_harmonic=True))
    (axes,) = draw_suite(harmonic, columns=1).axes
    assert axes.get_xlabel() == "harmonic mean acc1 over 2 members of own, %"


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
