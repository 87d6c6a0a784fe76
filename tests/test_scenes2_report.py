"""benchmarks/scenes2_report.py: its tables and its figure, of made-up trainings."""

import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from support.benchmark_modules import import_benchmarks
from support.models import store

from cosmos_eval.data.asked_objects import CONTROL, DOMINANT, DOMINANT_AREA, OBJECT, SMALL, WORD
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.types import UsageError

FAMILY = {
    "title": "A study",
    "stated": "2024-12-31T23:00:00+00:00",
    "methods": {
        "COSMOS": {"group": "scenes2-cosmos", "seeds": [0, 1]},
        "CLIP": {"group": "scenes2-clip", "seeds": [0, 1]},
        "SLIP": {"group": "scenes2-slip", "seeds": [0]},
    },
    "settings_chosen_with_seeds": [],
    "metrics": {
        "suppression": {
            "dataset": "scenes2-select",
            "protocol": "scenes",
            "metric": "suppression",
            "expected": "lower",
        }
    },
    "tests": {
        "level": 0.05,
        "decides": "permutation",
        "differences": [{"a": "COSMOS", "b": ["CLIP"], "metrics": ["suppression"]}],
    },
    "rules": [],
    "exploratory": ["all else"],
}


@pytest.fixture(scope="module")
def modules():
    """The report, the files of families, and the claims."""
    with import_benchmarks("scenes2_report", "_family", "study_claims") as modules:
        yield modules


def choices(n_first, n_small, first_role=DOMINANT):
    """Ten items about things of another role and ten about small ones, of which so many are right.

    The first five items of each role are about kinds, and the others about colours. The dominant
    thing covers 11, 12, ... 20% of the image.
    """
    right = [n < n_first for n in range(10)] + [n < n_small for n in range(10)]
    return {
        "correct": np.array(right),
        "subset": np.arange(20) % 2,
        "subsets": np.array(["one", "two"]),
        "averaged": np.ones(2, bool),
        "cluster": np.arange(20),
        OBJECT: np.array([first_role] * 10 + [SMALL] * 10),
        WORD: np.array((["kind"] * 5 + ["colour"] * 5) * 2),
        DOMINANT_AREA: np.tile(np.linspace(0.11, 0.20, 10), 2),
    }


def train(folder, group, seed, samples, dataset="scenes2-select"):
    """Write a result of a made-up training."""
    training = {"group": group, "seed": seed, "data_sha256": "d" * 64}
    training |= {"recipe_sha256": None, "samples": 1000, "flops": 1e12}
    model = {"spec": f"{group}-{seed}", "training": training}
    model["weights_sha256"] = f"{int.from_bytes(group.encode()) + seed:064x}"[-64:]
    store(folder, "select", dataset=dataset, samples=samples, model=model)


@pytest.fixture
def trainings(tmp_path):
    """CLIP with both seeds and one that is not planned; COSMOS with one, without the hash."""
    folder = tmp_path / "trainings"
    train(folder, "scenes2-clip-0123abcd", 0, choices(8, 5))
    train(folder, "scenes2-clip-0123abcd", 1, choices(9, 7))
    train(folder, "scenes2-clip-0123abcd", 100, choices(0, 10))
    train(folder, "scenes2-cosmos", 0, choices(9, 8))
    for seed in (0, 1):
        train(folder, "scenes2-clip-0123abcd", seed, choices(6, 6), "scenes2-select-control")
    train(folder, "scenes2-clip-0123abcd", 0, choices(8, 5, CONTROL), "scenes2-beside")
    return folder


@pytest.fixture
def read(modules, trainings, tmp_path):
    """Return a function that reads the family, with trainings that failed, and the results."""

    def read_study(failed=()):
        path = tmp_path / "family.yaml"
        path.write_text(yaml.safe_dump(FAMILY | {"failed": [*failed]}, sort_keys=False))
        return modules[1].read_family(path), read_stored(result_paths(trainings))

    return read_study


def rows_of(table):
    """The cells of a table's rows, by the method and the title of the column."""
    lines = [line.strip("|").split("|") for line in table.strip().splitlines()]
    header, _, *cells = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in cells}


def test_means_by_hand(modules, read):
    report = modules[0]
    rows = rows_of(report.table(*read(), report.OVERVIEW))
    assert [*rows] == ["COSMOS", "CLIP"]  # in the family's order, without methods without results
    # 80 and 90, 50 and 70, and their differences 30 and 20. Seed 100 is not planned.
    assert rows["CLIP"]["dominant"] == "85.0 ± 7.1 (2)"
    assert rows["CLIP"]["small"] == "60.0 ± 14.1 (2)"
    assert rows["CLIP"]["suppression"] == "25.0 ± 7.1 (2)"
    assert rows["CLIP"]["suppression, control"] == "0.0 ± 0.0 (2)"
    assert rows["CLIP"]["siblings"] == rows["CLIP"]["mIoU, tuned"] == ""
    assert rows["COSMOS"]["suppression"] == "10.0 (1)"
    assert rows["COSMOS"]["suppression, control"] == ""
    by_word = rows_of(report.table(*read(), report.columns_by_word("scenes2-select")))
    # Of five items about colours, three and four of the dominant thing, none and two of small ones.
    assert by_word["CLIP"]["colour, dominant"] == "70.0 ± 14.1 (2)"
    assert by_word["CLIP"]["colour, small"] == "20.0 ± 28.3 (2)"
    assert by_word["CLIP"]["kind, small"] == "100.0 ± 0.0 (2)"
    assert by_word["CLIP"]["place, small"] == ""
    # The thirds end at 14 and 17%: small things 1 to 4, 5 to 7, and 8 to 10, of which the first
    # five and seven are right.
    by_area = rows_of(report.table(*read(), report.AREAS))
    assert by_area["CLIP"] == {
        "smallest third": "100.0 ± 0.0 (2)",
        "middle third": "66.7 ± 47.1 (2)",
        "largest third": "0.0 ± 0.0 (2)",
    }


def test_means_are_those_of_the_claims(modules, read):
    report, _, claims = modules
    family, stored = read()
    results = claims.results_by_side(family, stored)
    interim_rows = rows_of([*claims.interim_report(family, results)][-1])
    rows = rows_of(report.table(family, stored, report.OVERVIEW))
    for method in ("CLIP", "COSMOS"):
        assert rows[method]["suppression"] == interim_rows[method]["suppression"]


def test_the_report_is_interim_until_all_trainings_are_there_that_did_not_fail(modules, read):
    lines = [*modules[0].report(*read())]
    assert lines[1] == "Interim: 3 of 5 trainings are complete.\n"
    failed = [{"method": "COSMOS", "seed": 1, "reason": "NaN"}]
    failed.append({"method": "SLIP", "seed": 0, "reason": "NaN"})
    assert not any("Interim" in line for line in modules[0].report(*read(failed)))


def test_several_recipes_of_a_method_are_refused_in_a_line(
    modules, read, trainings, monkeypatch, capsys
):
    train(trainings, "scenes2-clip-89abcdef", 0, choices(1, 1))
    with pytest.raises(UsageError, match="CLIP has trainings of several recipes"):
        [*modules[0].report(*read())]
    monkeypatch.setattr("sys.argv", ["scenes2_report.py", str(trainings)])
    with pytest.raises(SystemExit) as ended:
        modules[0].main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("scenes2_report: CLIP has trainings of several recipes: ")
    assert err.count("\n") == 1


def test_the_command_prints_all_tables_and_writes_the_figure(
    modules, trainings, monkeypatch, capsys, tmp_path
):
    path = tmp_path / "figure.png"
    arguments = ["scenes2_report.py", str(trainings), "--figure", str(path)]
    monkeypatch.setattr("sys.argv", arguments)
    modules[0].main()
    out = capsys.readouterr().out
    assert out.count("| method |") == 6
    assert "| CLIP | 85.0 ± 7.1 (2) | " in out
    # The second five items of a role are about colours: three of them are right, and none.
    assert "| CLIP | 50.0 (1) | 80.0 (1) | 30.0 (1) | 0.0 (1) | 60.0 (1) |" in out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_points_of_the_figure_are_means_and_the_legend_lies_below_the_panels(modules, read):
    page = modules[0].make_figure(*read())
    canvas = FigureCanvasAgg(page)
    canvas.draw()
    left, right, losses = page.axes
    assert left.get_xlim() == right.get_xlim()
    dominant, small = [container.lines[0].get_xydata() for container in left.containers]
    assert dominant[:, 0] == pytest.approx([90, 85])  # COSMOS, CLIP
    assert small[:, 0] == pytest.approx([80, 60])
    assert [container.lines[0].get_xydata()[:, 0].tolist() for container in right.containers] == [
        pytest.approx([60]),
        pytest.approx([60]),
    ]
    assert losses.containers[0].lines[0].get_xydata()[:, 0] == pytest.approx([30])
    assert losses.get_xlim() != left.get_xlim()
    (legend,) = page.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "about the dominant thing",
        "about the small thing",
    ]
    for panel in page.axes:
        assert legend.get_window_extent().y1 < panel.get_tightbbox().y0
    # The t-interval of 80 and 90: 12.706 standard errors of 5.
    assert modules[0].interval_half_width([80, 90]) == pytest.approx(12.706 * 5, rel=1e-4)
    assert modules[0].interval_half_width([80]) == 0
