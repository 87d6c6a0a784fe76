"""The curves of a log: Matplotlib's lines have the logged values."""

import io

import numpy as np
import PIL.Image
import pytest

from cosmos_core.plots import curves
from cosmos_core.utils.figures import plain_style

TITLE = "scenes_cosmos (cosmos): steps 0 to 9 of 10"
TERMS = ("clip", "distill")


def record(step, **figures):
    return {
        **{"step": step, "lr": 1e-3 / (step + 1), "clip": 3.5 - step / 8, "distill": 3.0},
        **{"total": 6.5 - step / 8, "logit_scale": 14.25 + step, "momentum": 0.99 + step / 1e4},
        **{"distill_logit_scale": 10.0, "gradient_norm": 2.0 ** (step % 5), "bad_samples": 0},
        "timing": {
            **{"samples_per_second": 100.0 + step % 7, "data_wait": 0.25 + step / 64},
            "memory_bytes": 2e9 + step,
        },
        **figures,
    }


def draw_axes(records):
    """Return the title of each panel of a page -> its axes."""
    with plain_style():
        page = curves.lay_out(curves.panels(records, TERMS), TITLE)
    return {axes.get_title(): axes for axes in page.axes}


def points_by_name(axes):
    """Return the names in the legend -> the points of the line with this colour."""
    legend = axes.get_legend()
    names = {}
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        names[handle.get_color()] = text.get_text()
    return {names[line.get_color()]: line.get_xydata().tolist() for line in axes.lines}


@pytest.mark.parametrize("steps", [1, 24])
def test_lines_have_the_logged_values(steps):
    axes = draw_axes([record(step) for step in range(steps)])
    assert points_by_name(axes["loss before the step"]) == {
        "total": [[step, 6.5 - step / 8] for step in range(steps)],
        "clip": [[step, 3.5 - step / 8] for step in range(steps)],
        "distill": [[step, 3.0] for step in range(steps)],
    }
    (rate,) = axes["learning rate"].lines
    assert rate.get_xydata().tolist() == [[step, 1e-3 / (step + 1)] for step in range(steps)]
    scales = points_by_name(axes["logit scales"])
    first_points = {name: points[0] for name, points in scales.items()}
    assert first_points == {"logit_scale": [0, 14.25], "distill_logit_scale": [0, 10.0]}
    for title, value, unit in (
        ("teacher's momentum", 0.99, ""),
        ("norm of the gradient", 1.0, ""),
        ("speed", 100.0, "images per second"),
        ("time spent waiting for batches", 25.0, "%"),
        ("peak memory", 2.0, "GB"),
    ):
        (line,) = axes[title].lines
        assert line.get_ydata()[0] == pytest.approx(value)
        assert axes[title].get_ylabel() == unit
    assert all(panel_axes.get_xlabel() == "step" for panel_axes in axes.values())
    assert axes["loss before the step"].get_ylabel() == "nats"
    assert len(axes) == 8  # no bad samples: no panel


def test_the_only_term_is_drawn_without_a_total():
    (loss, *_) = curves.panels([record(step) for step in range(3)], ["clip"])
    assert [series.name for series in loss.series] == ["clip"]
    (loss, *_) = curves.panels([record(step, spread=1.0) for step in range(3)], ["spread", "clip"])
    assert [series.name for series in loss.series] == ["total", "spread", "clip"]


def titles_of_panels(records):
    return [panel.title for panel in curves.panels(records, TERMS)]


def test_values_that_are_equal_in_several_steps_have_no_panel():
    same = {"momentum": 0.99, "timing": {"memory_bytes": 2e9, "samples_per_second": 10.0}}
    titles = titles_of_panels([record(step, **same) for step in (0, 1)])
    assert titles[:3] == ["loss before the step", "learning rate", "logit scales"]
    assert titles[3:] == ["norm of the gradient"]
    # The loss always has a panel, and in a single step all values have one.
    titles = titles_of_panels([record(step, total=1, clip=1, distill=0) for step in (0, 1)])
    assert titles[0] == "loss before the step"
    assert "teacher's momentum" in titles_of_panels([record(0)])


def test_bad_samples_have_a_panel_if_there_are_some():
    titles = titles_of_panels([record(0), record(1, bad_samples=2)])
    assert "samples that could not be read" in titles


def test_a_value_that_is_not_finite_is_a_gap():
    records = [record(0), record(1, gradient_norm=None), record(2)]
    (line,) = draw_axes(records)["norm of the gradient"].lines
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]
    assert curves.draw_curves([record(0, gradient_norm=None)], TITLE, TERMS)


def test_evaluations_have_a_panel_per_data_set():
    def evaluation_record(step, shift):
        return {
            "step": step,
            "evaluation": {
                "birds/teacher/acc1": 0.5 + shift,
                "birds/teacher/mean_rank": 7.0 - shift,
                "a/b.yaml/teacher/acc1": 0.25,
                "birds/student/acc1": 0.125,
                "birds/student/mean_rank": 9.0,
                "a/b.yaml/student/acc1": None,
            },
        }

    records = [record(0), record(1), evaluation_record(1, 0.0)]
    records += [record(2), record(3), evaluation_record(3, 0.25)]
    axes = draw_axes(records)
    birds, ranks = axes["birds"], axes["birds, not fractions"]
    teacher, student = (line.get_xydata().tolist() for line in birds.lines)
    assert (teacher, student) == ([[1, 0.5], [3, 0.75]], [[1, 0.125], [3, 0.125]])
    assert [line.get_linestyle() for line in birds.lines] == ["-", "--"]
    assert len({line.get_color() for line in birds.lines}) == 1
    assert [text.get_text() for text in birds.get_legend().get_texts()] == ["acc1"]
    assert birds.get_legend().get_title().get_text() == "dashed: student"
    assert ranks.lines[0].get_ydata().tolist() == [7.0, 6.75]
    assert axes["a/b.yaml"].lines[0].get_ydata().tolist() == [0.25, 0.25]
    assert axes["learning rate"].lines[0].get_xdata().tolist() == [0, 1, 2, 3]


def test_a_long_noisy_line_has_its_mean_over_it():
    noise = np.random.default_rng(0).normal(3, 0.5, 4 * curves.MIN_POINTS_FOR_MEAN)
    axes = draw_axes([record(step, clip=value) for step, value in enumerate(noise)])
    loss = axes["loss before the step"]
    raw_line, mean_line = (line for line in loss.lines if line.get_color() == "C1")
    assert raw_line.get_ydata().tolist() == noise.tolist()
    assert raw_line.get_alpha() < 0.5
    # Means are over 9 values, as a fiftieth of all values is 8.
    expected = [noise[max(0, step - 4) : step + 5].mean() for step in range(len(noise))]
    assert mean_line.get_ydata() == pytest.approx(expected)
    heading = loss.figure.texts[0].get_text()
    assert heading.endswith("thick: means over 9 lines of the log, pale: every line")
    assert len(axes["learning rate"].lines) == 1


def test_a_wide_range_has_a_logarithmic_axis_and_a_narrow_one_has_not():
    for norms, scale in (((1.0, 100.0), "log"), ((5.0, 6.0), "linear"), ((0.0, 1.0), "linear")):
        records = [record(step, gradient_norm=norm) for step, norm in enumerate(norms)]
        assert draw_axes(records)["norm of the gradient"].get_yscale() == scale


def test_the_running_mean_leaves_out_values_that_are_not_finite():
    values = np.array([1.0, np.nan, 4.0, np.nan, np.nan, np.nan, 7.0])
    expected = [1.0, 2.5, 4.0, 4.0, np.nan, 7.0, 7.0]
    assert curves.running_mean(values, 3) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("count", [curves.MAX_POINTS + 1, 100_000])
def test_a_thinned_line_keeps_every_peak(count):
    values = np.random.default_rng(0).normal(size=count)
    values[count // 3], values[count // 2], values[7] = 50.0, -50.0, np.nan
    steps = np.arange(count, dtype=float) * 10
    thinned = curves.thinned(curves.Series("clip", steps, values), curves.MAX_POINTS)
    assert 0.6 * curves.MAX_POINTS <= len(thinned.values) <= curves.MAX_POINTS
    indices = (thinned.steps / 10).astype(int)  # of the values that are kept
    assert (np.diff(indices) > 0).all()
    assert thinned.values == pytest.approx(values[indices], nan_ok=True)
    assert {count // 3, count // 2} <= set(indices)
    # Each value is between the smallest and the largest of the kept values around it.
    radius = 2 * count / curves.MAX_POINTS + 1
    for index in np.linspace(10, count - 1, 300).astype(int):
        values_around = thinned.values[abs(indices - index) < radius]
        assert np.nanmin(values_around) <= values[index] <= np.nanmax(values_around)


def test_a_short_line_is_not_thinned():
    series = curves.Series(
        "clip", np.arange(curves.MAX_POINTS, dtype=float), np.zeros(curves.MAX_POINTS)
    )
    assert curves.thinned(series, curves.MAX_POINTS) is series


def test_many_lines_make_a_small_file():
    noise = np.random.default_rng(0).normal(1, 0.1, 5 * curves.MAX_POINTS).tolist()
    records = [record(step, clip=value, total=value + 3) for step, value in enumerate(noise)]
    content = curves.draw_curves(records, TITLE, TERMS)
    assert len(content) < 300_000
    assert PIL.Image.open(io.BytesIO(content)).size == (1380, 940)
