"""`cosmos-eval scaling` and `plot scaling` on stored results of trainings at several budgets."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import SAMPLES as ARRAYS
from support.models import store

import cosmos_eval
from cosmos_eval.reporting.plots.laws import draw_laws
from cosmos_eval.results.laws import alpha_text, budget_text, to_document
from cosmos_eval.results.scaling import make_options, method_name
from cosmos_eval.types import UsageError

STUDY = Path(__file__).parents[3] / "benchmarks" / "study" / "trainings"
SAMPLES = (40_000, 80_000, 160_000, 320_000, 640_000)
# E, the error above it at 40,000 samples, and alpha
METHODS = {"clip": (0.05, 0.75, 0.45), "cosmos": (0.03, 0.92, 0.95)}


def put(folder: Path, group: str, samples: int, seed: int, error: float, **changes: Any) -> Path:
    """Store the result of a training."""
    model = model_of(group, samples, seed, changes.pop("recipe_sha256", None))
    model |= changes.pop("model", {})
    number = hash_of(group, samples, seed) % 1000
    return store(folder, "cls", 1 - error, number, model=model, **changes)


def model_of(
    group: str, samples: int, seed: int, recipe_sha256: str | None = None
) -> dict[str, Any]:
    """The fields of a training's model."""
    hash_in_group = group.partition(" at step ")[0].rpartition("-")[2]
    training = {
        "group": group,
        "seed": seed,
        "recipe_sha256": recipe_sha256 or f"{hash_in_group:0<64}",
        "data_sha256": None,
        "samples": samples,
        "flops": samples * 1e8 * (1 + 0.01 * seed),
    }
    return {
        "spec": f"{group}-{samples}-{seed}",
        "weights_sha256": f"{hash_of(group, samples, seed):064x}",
        "training": training,
    }


def hash_of(group: str, samples: int, seed: int) -> int:
    """A number for each training."""
    return sum(map(ord, group)) * 10**9 + samples * 10 + seed


def put_ladder(folder: Path, name: str, seeds: int = 3, budgets: tuple[int, ...] = SAMPLES) -> None:
    """Store the trainings of a method, whose groups end with another hash for each budget."""
    floor, drop, exponent = METHODS[name]
    random = np.random.default_rng(0)
    for index, samples in enumerate(budgets):
        for seed in range(seeds):
            error = floor + drop * (samples / SAMPLES[0]) ** -exponent
            error += 0.03 * np.sqrt(error * (1 - error)) * random.standard_normal()
            put(folder, f"{name}-{index:08x}", samples, seed, float(error))


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    for name in METHODS:
        put_ladder(folder, name)
    return folder


def test_two_methods_cross(command: Callable[..., Any], ladder: Path) -> None:
    ended = command("scaling", ladder, "--hold-out", "largest")
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("scenes-cls, error of acc1: cosmos below clip from ")
    assert max(map(len, lines)) <= 80
    assert ended.out.count(": inside") == 2
    assert "error: 100 - metric, in percent" in ended.err
    assert ended.err.splitlines()[-1].startswith("note: predicted: mean of k held-out")

    (document,) = json.loads(command("scaling", ladder, "--hold-out", "640000", "--json").out)
    assert document["headlines"][0] in ended.out.replace("\n ", "")
    (crossing,) = document["crossings"]
    assert crossing["shown"]
    assert (crossing["a"], crossing["b"], crossing["lower_at_end"]) == ("clip", "cosmos", "B")
    for method in document["methods"]:
        floor, _, exponent = METHODS[method["name"]]
        for name, truth in (("E", floor), ("alpha", exponent)):
            parameter = method["parameters"][name]
            assert parameter["low"] <= truth <= parameter["high"]
    rows = document["budgets"]
    assert [row["budget"] for row in rows] == [*SAMPLES, *SAMPLES]
    assert [row["fitted"] for row in rows] == [*[True] * 4, False] * 2
    held_out = rows[4]
    assert held_out["predicted_low"] <= held_out["error"] <= held_out["predicted_high"]
    # The error is the mean of 1 - acc1 of the three stored results.
    stored = [json.loads(path.read_text()) for path in ladder.glob("*.json")]
    of_clip = [r for r in stored if r["model"]["training"]["group"] == "clip-00000004"]
    accuracies = [record["metrics"]["acc1"] for record in of_clip]
    assert len(accuracies) == 3
    assert held_out["error"] == pytest.approx(1 - sum(accuracies) / 3)


def test_python_and_the_figure_have_the_same_laws(
    command: Callable[..., Any], ladder: Path, tmp_path: Path
) -> None:
    report = cosmos_eval.scaling(ladder, groups="cosmos", x="flops", predict=2e14)
    frame = report.frame
    assert len(frame) == 6
    # FLOPs are the samples times the mean FLOPs of a sample, 1.01e8.
    assert frame["budget"].iloc[0] == pytest.approx(40_000 * 1.01e8)
    assert frame["error"].isna().tolist() == [False] * 5 + [True]
    first, second = report.headlines
    assert first.startswith("scenes-cls, error of acc1: cosmos falls to ")
    assert second.startswith("scenes-cls, error of acc1: cosmos at 2e14 flops predicted ")

    report = cosmos_eval.scaling(ladder, hold_out="largest")
    (axes,) = draw_laws(report.laws, columns=1).axes
    lines_with_markers = [line for line in axes.lines if line.get_marker() == "o"]
    points = [line for line in lines_with_markers if len(line.get_xdata())]  # others: legend
    assert [line.get_xdata()[0] for line in points] == [*SAMPLES, *SAMPLES]
    assert [line.get_fillstyle() for line in points] == [*["full"] * 4, "none"] * 2
    shown = report.frame["error"]
    means = [np.mean(line.get_ydata()) for line in points]
    assert means == pytest.approx((100 * shown).tolist())
    for arguments in ((), ("--x", "samples", "--hold-out", "largest", "--columns", "2")):
        ended = command("plot", "scaling", ladder, "--output", "laws.svg", *arguments)
        assert (ended.status, Path("laws.svg").exists()) == (0, True)
        assert "samples seen" in Path("laws.svg").read_text()
    assert command("plot", "scaling", ladder, "--x", "gflops", "--output", "a.svg").status == 2


def test_one_training_per_budget_has_intervals_over_images(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    put_ladder(tmp_path / "r", "cosmos", seeds=1)
    ended = command("scaling", "r", "--json")
    (document,) = json.loads(ended.out)
    assert document["methods"][0]["interval_method"] == "parametric bootstrap over images"
    assert document["methods"][0]["misfit_p"] is None
    assert "intervals are over images only, and deviations from the law are not tested" in ended.err
    ended = command("scaling", "r", "--predict", "1000000")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "cosmos-eval: not predicted: scenes-cls acc1, cosmos at 1e6 samples: one training per "
        "budget, so that the variance between seeds is unknown\n"
    )


def test_trainings_before_their_last_step_are_left_out_unless_they_are_named(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    put_ladder(tmp_path / "r", "cosmos", seeds=2)
    for samples in SAMPLES[:4]:
        for seed in range(2):
            group = f"clip-0000000a at step {samples // 100}"
            put(tmp_path / "r", group, samples, seed, 0.9 - samples / 1e6)
    ended = command("scaling", "r")
    assert (ended.status, "clip" in ended.out) == (0, False)
    assert "left out: 8 results of trainings before their last step" in ended.err
    for name in ("clip* at step *", "clip at step *"):
        (document,) = json.loads(command("scaling", "r", "--group", name, "--json").out)
        assert [row["budget"] for row in document["budgets"]] == [*SAMPLES[:4]]
    ended = command("scaling", *(tmp_path / "r").glob("*clip*.json"))
    assert ended.status == 2
    assert "at step *'` includes them); no result states a finished training: " in ended.err


def test_naming_the_early_trainings_of_a_method_adds_none_of_another(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    for name in METHODS:
        put_ladder(tmp_path / "r", name, seeds=2)
        for samples in (20_000, 30_000, 50_000, 90_000):
            group = f"{name}-0000000a at step {samples // 100}"
            put(tmp_path / "r", group, samples, 0, 0.9 - samples / 1e6)
    ended = command("scaling", "r", "--group", "clip at step *", "--group", "cosmos*", "--json")
    (document,) = json.loads(ended.out)
    budgets: dict[str, list[float]] = {}
    for row in document["budgets"]:
        budgets.setdefault(row["method"], []).append(row["budget"])
    assert budgets == {"clip at step *": [20_000, 30_000, 50_000, 90_000], "cosmos*": [*SAMPLES]}
    assert "left out: 4 results of trainings before their last step" in ended.err


def test_a_method_that_is_named_twice_counts_once(ladder: Path) -> None:
    frame = cosmos_eval.scaling(ladder, groups=["clip", "clip"]).frame
    assert frame["trainings"].tolist() == [3] * 5


def test_results_that_cannot_count_are_noted(command: Callable[..., Any], tmp_path: Path) -> None:
    put_ladder(tmp_path / "r", "cosmos", seeds=2)
    store(tmp_path / "r", "cls", model={"spec": "other", "weights_sha256": "e" * 64})
    ended = command("scaling", "r")
    assert ended.status == 0
    assert "note: left out: 1 result without the `group` of the training" in ended.err


def test_two_protocols_have_headlines_of_their_own(
    command: Callable[..., Any], ladder: Path, tmp_path: Path
) -> None:
    for samples in SAMPLES:
        for seed in range(2):
            error = 0.05 + 0.7 * (samples / SAMPLES[0]) ** -0.5 + 0.002 * seed
            put(tmp_path / "r", f"clip-{samples:08x}", samples, seed, error, protocol="other")
    report = cosmos_eval.scaling(ladder, tmp_path / "r", groups="clip")
    titles = [headline.partition(":")[0] for headline in report.headlines]
    assert sorted(titles) == [
        "scenes-cls (other), error of acc1",
        "scenes-cls (scenes), error of acc1",
    ]


def test_a_search_at_one_budget_does_not_stop_other_methods(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    put_ladder(tmp_path / "r", "cosmos", seeds=2)
    for index in range(3):
        put(tmp_path / "r", f"clip-{index:08x}", SAMPLES[0], 0, 0.3 + 0.1 * index)
    ended = command("scaling", "r")
    assert ended.status == 0, ended.err
    assert "note: scenes-cls: no law of clip: 1 budget, and a law with three" in ended.err


def test_almost_equal_budgets_make_no_law(command: Callable[..., Any], tmp_path: Path) -> None:
    """Budgets that differ by one batch are one point of a law, not two."""
    put_ladder(tmp_path / "r", "cosmos", seeds=2, budgets=(40_000, 40_064, 160_000, 320_000))
    ended = command("scaling", "r")
    assert (ended.status, ended.out) == (2, "")
    assert "no law of cosmos: budgets of 40000 and 40064 samples are almost equal" in ended.err


def test_a_date_in_a_group_is_not_a_hash(command: Callable[..., Any], tmp_path: Path) -> None:
    put_ladder(tmp_path / "r", "clip", seeds=2)
    training = model_of("clip-20250101", SAMPLES[0], 9)["training"] | {"recipe_sha256": None}
    put(tmp_path / "r", "clip-20250101", SAMPLES[0], 9, 0.3, model={"training": training})
    ended = command("scaling", "r", "--json")
    (document,) = json.loads(ended.out)
    assert document["budgets"][0]["trainings"] == 2
    assert "no law of clip-20250101: 1 budget" in ended.err


def test_a_budget_that_one_method_has_is_held_out_of_this_one(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    budgets = (58_096, 116_192, 232_384, 464_768, 929_536)
    put_ladder(tmp_path / "r", "cosmos", seeds=2, budgets=budgets)
    put_ladder(tmp_path / "r", "clip", seeds=2, budgets=(*SAMPLES[:3], 929_536))
    refused = command("scaling", "r", "--hold-out", "2e5")
    assert refused.err.endswith("clip has 40000, 80000, 160000, 929536\n")
    ended = command("scaling", "r", "--hold-out", "2.324e5", "--json")
    (document,) = json.loads(ended.out)
    held_out = [row for row in document["budgets"] if not row["fitted"]]
    assert [(row["method"], row["budget"]) for row in held_out] == [("cosmos", 232_384)]
    note = "clip has no budget of 232400 samples: its law is fitted to all of its budgets"
    assert note in ended.err.replace("\n", " ")


def test_methods_without_a_common_range_have_their_own_headlines(tmp_path: Path) -> None:
    put_ladder(tmp_path, "cosmos", seeds=2, budgets=SAMPLES[:4])
    put_ladder(tmp_path, "clip", seeds=2, budgets=tuple(16 * samples for samples in SAMPLES[:4]))
    report = cosmos_eval.scaling(tmp_path)
    methods = [headline.split(": ")[1].split(" falls to ")[0] for headline in report.headlines]
    assert methods == ["clip", "cosmos"]
    note = "scenes-cls: clip and cosmos: the budgets of the two methods do not overlap"
    assert report.notes == (note,)


def test_the_figure_draws_budgets_only_of_what_is_chosen(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    """Without a ladder among the chosen results, its axis is the GFLOPs of an image."""
    put_ladder(tmp_path / "r", "cosmos", seeds=2)
    other = {"spec": "openclip:ViT-B-32/openai"}
    put(tmp_path / "r", "clip-00000000", 40_000, 0, 0.3, model=other)
    assert command("plot", "scaling", "r", "--output", "a.svg").status == 0
    assert "samples seen" in Path("a.svg").read_text()
    ended = command("plot", "scaling", "r", "--models", "openclip*", "--output", "b.svg")
    assert ended.status == 0, ended.err
    assert "GFLOPs" in Path("b.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--predict", "1e8"), "x the largest fitted budget, and predictions reach to 4 x"),
        (
            ("--hold-out", "123"),
            "no method has a budget of 123 samples to hold out: clip has 40000",
        ),
        (("--hold-out", "big"), "a budget is a positive number such as 640000"),
        (("--group", "nothing"), "no group of trainings is called 'nothing'; nearest: "),
        (("--group", "clip", "--group", "c*"), "--group clip and --group c* both have clip-0"),
        (("--group", "clip-00000001"), "no law of clip-00000001: 1 budget, and a law"),
        (("--metrics", "acc9"), "no metric is called 'acc9'"),
    ],
)
def test_bad_results_are_refused(
    command: Callable[..., Any], ladder: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = command("scaling", ladder, *arguments)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert message in ended.err


@pytest.mark.parametrize(
    ("task", "metric", "reason"),
    [
        ("select", "suppression", "a difference, which may be 0 or negative"),
        (
            "select",
            "odds_small_by_dominant_area",
            "which rises as models get better, and is not a fraction",
        ),
        ("depth-probe", "rmse", "which is 0 for a training"),
    ],
)
def test_metrics_without_a_law_are_refused(
    command: Callable[..., Any], tmp_path: Path, task: str, metric: str, reason: str
) -> None:
    n_pairs = 60
    changes: dict[str, dict[str, Any]] = {
        "select": {
            "object": np.tile(["dominant", "small"], n_pairs),
            "dominant_area": np.linspace(0.1, 0.9, 2 * n_pairs),
        },
        "depth-probe": {"rmse": np.zeros(2 * n_pairs)},
    }
    for samples in SAMPLES[:4]:
        for seed in range(2):
            random = np.random.default_rng(samples + seed)
            measured = {**ARRAYS[task](0.6, random), **changes[task]}
            model = model_of("cosmos-00000000", samples, seed)
            store(tmp_path / "r", task, samples=measured, model=model)
    ended = command("scaling", "r", "--metrics", metric)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        f"cosmos-eval: scenes-{task}: no law of {metric}, {reason}: laws are of fractions, and of "
        "other metrics above 0 if lower is better\n"
    )
    if task == "select":
        ended = command("scaling", "r", "--metrics", f"accuracy,{metric}")
        assert ended.status == 0
        assert f"note: scenes-select: no law of {metric}, {reason}" in ended.err


def test_results_without_a_primary_metric_are_refused(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    for samples in SAMPLES[:4]:
        measured = dict(ARRAYS["ranking"](0.6, np.random.default_rng(samples)))
        measured["metrics"] = np.array(["R-precision"])
        model = model_of("cosmos-00000000", samples, 0)
        store(tmp_path / "r", "ranking", samples=measured, model=model)
    ended = command("scaling", "r")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "cosmos-eval: scenes-ranking: no primary metric: choose others with --metrics\n"
    )


def test_larger_models_have_budgets_of_their_own(tmp_path: Path) -> None:
    """Larger models at the same samples, and at more samples, each with its own FLOPs."""
    flops_of_model = {"S": 1e6, "M": 1e7, "L": 1e8, "XL": 1e9}
    expected_budgets, expected_errors = [], []
    for index, (architecture, flops_per_sample) in enumerate(flops_of_model.items()):
        samples = 40_000 if index < 2 else 80_000
        expected_budgets.append(samples * flops_per_sample)
        accuracies = []
        for seed in (0, 1):
            model = model_of(f"m-{index:08x}", samples, seed)
            model["architecture"] = architecture
            model["training"]["flops"] = samples * flops_per_sample
            model["spec"] += architecture
            model["weights_sha256"] = f"{10 * index + seed:064x}"
            accuracy = 0.4 + 0.1 * index + 0.01 * seed
            path = store(tmp_path, "cls", accuracy, 10 * index + seed, model=model)
            accuracies.append(json.loads(path.read_text())["metrics"]["acc1"])
        expected_errors.append(1 - np.mean(accuracies))
    frame = cosmos_eval.scaling(tmp_path, x="flops").frame
    assert frame["budget"].tolist() == pytest.approx(expected_budgets)
    assert frame["trainings"].tolist() == [2] * 4
    assert frame["error"].tolist() == pytest.approx(expected_errors)


def test_a_method_off_its_law_has_no_crossing(ladder: Path, tmp_path: Path) -> None:
    """An accuracy that stays near chance and then rises does not follow a law."""
    errors = (0.85, 0.84, 0.83, 0.30, 0.05)
    for index, (samples, error) in enumerate(zip(SAMPLES, errors, strict=True)):
        for seed in range(3):
            put(tmp_path, f"steep-{index:08x}", samples, seed, error + 0.002 * seed)
    report = cosmos_eval.scaling(ladder, tmp_path, groups=["clip", "steep"])
    headline = (
        "scenes-cls, error of acc1: steep does not follow the law, so no crossing is computed"
    )
    assert report.headlines == [headline]
    (laws,) = report.laws
    (crossing,) = to_document(laws)["crossings"]
    names = {"a": "clip", "b": "steep", "shown": False}
    assert crossing == dict.fromkeys(crossing) | names
    (axes,) = draw_laws(report.laws, columns=1).axes
    assert not axes.patches  # no band of a crossing
    assert len(axes.collections) == 1  # the band of the law of clip
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["clip", "steep (no law)"]
    frame = report.frame
    assert frame[frame["method"] == "steep"]["law"].isna().all()
    assert not frame[frame["method"] == "clip"]["law"].isna().any()


def test_a_new_training_at_the_held_out_budget_has_its_own_row(ladder: Path) -> None:
    options: dict[str, Any] = {"groups": "clip", "hold_out": "largest"}
    alone = cosmos_eval.scaling(ladder, **options).frame
    both = cosmos_eval.scaling(ladder, **options, predict=SAMPLES[-1]).frame
    assert both["predicted_trainings"].tolist()[-2:] == [1, 3]
    of_three, of_one = (both[both["predicted_trainings"] == k].iloc[0] for k in (3, 1))
    expected = alone.iloc[-1]
    for name in ("error", "predicted_low", "predicted_high"):
        assert of_three[name] == expected[name]
    assert np.isnan(of_one["error"])
    assert of_one["predicted_low"] < of_three["predicted_low"]


def test_mixtures_are_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    def refusal_with(name: str, *training: Any, **changes: Any) -> str:
        put_ladder(tmp_path / name, "cosmos", seeds=2, budgets=SAMPLES[:4])
        put(tmp_path / name, *training, **changes)
        ended = command("scaling", name)
        assert (ended.status, ended.out) == (2, "")
        return str(ended.err)

    last = ("cosmos-00000003", SAMPLES[3])
    assert "(images, label maps and labels that were measured) is" in refusal_with(
        "images", *last, 7, 0.2, hashes={"content": "e" * 64}
    )
    assert "belong to one training" in refusal_with(
        "twice", *last, 1, 0.1, model={"spec": "copy", "weights_sha256": "f" * 64}
    )
    # Also with a seed that another recipe has.
    for seed in (1, 7):
        assert "cosmos with 320,000 samples has trainings of different recipes" in refusal_with(
            f"recipes-{seed}", "cosmos-22222222", SAMPLES[3], seed, 0.2
        )
    assert "have 2 architectures: use --x flops" in refusal_with(
        "sizes", *last, 7, 0.2, model={"architecture": "larger"}
    )


def test_methods_on_other_data_sets_are_noted(command: Callable[..., Any], tmp_path: Path) -> None:
    put_ladder(tmp_path / "r", "cosmos", seeds=2)
    put(tmp_path / "r", "clip-00000000", 40_000, 0, 0.3, dataset="other-cls")
    for arguments in (("--hold-out", "largest"), ("--x", "flops")):
        ended = command("scaling", "r", *arguments)
        assert ended.status == 0, ended.err
        assert "note: other-cls: no law of clip" in ended.err
        assert "cosmos" in ended.out
        assert "clip" not in ended.out


def test_data_sets_without_the_metric_are_left_out(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    put_ladder(tmp_path / "r", "cosmos", seeds=2)
    model = model_of("cosmos-00000000", SAMPLES[0], 0)
    store(
        tmp_path / "r",
        "select",
        samples=ARRAYS["select"](0.6, np.random.default_rng(0)),
        model=model,
    )
    ended = command("scaling", "r", "--metrics", "acc1")
    assert ended.status == 0, ended.err
    assert "scenes-cls, error of acc1: cosmos" in ended.out
    assert "scenes-select" not in ended.out + ended.err
    ended = command("scaling", "r", "--metrics", "accuracy")
    assert ended.err.startswith("cosmos-eval: scenes-select: no law of cosmos: 1 budget")
    assert ended.err.count("\n") == 1
    assert "scenes-cls" not in ended.err


def test_the_study_has_too_few_budgets(command: Callable[..., Any]) -> None:
    results = sorted(STUDY.glob("clip-*/*__scenes-cls__scenes.json"))
    assert len(results) == 8
    ended = command("scaling", *results, "--group", "scenes_clip*")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "cosmos-eval: scenes-cls: no law of scenes_clip*: 2 budgets, and a law with three "
        "parameters needs 4 or more\n"
    )


def test_names_and_numbers() -> None:
    recipe_sha256 = f"{'fdaf36bd':0<64}"
    assert method_name("scenes_clip-fdaf36bd", recipe_sha256) == "scenes_clip"
    assert method_name("scenes_clip-fdaf36bd at step 400", recipe_sha256) == "scenes_clip"
    assert method_name("my-clip", recipe_sha256) == "my-clip"
    assert method_name("my-clip-20250101", None) == "my-clip-20250101"
    texts = {1_234_567.0: "1.2e6", 640_000.0: "6.4e5", 999_999.0: "1e6", 640.0: "640"}
    assert {number: budget_text(number) for number in texts} == texts
    assert [alpha_text(exponent) for exponent in (0.455, 3.9, 4.0)] == ["0.46", "3.90", ">4"]
    assert make_options(hold_out="6.4e5").hold_out == 640_000
    for wrong in ("0", "-1", "inf", "nan", "x"):
        with pytest.raises(UsageError, match="a budget is a positive number"):
            make_options(hold_out=wrong)
    for wrong_number in (0, -1, float("inf")):
        with pytest.raises(UsageError, match="a budget is a positive number"):
            make_options(predict=wrong_number)


def test_the_benchmark_prints_a_ladder(ladder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "scaling.py"
    runpy.run_path(str(script))["print_ladder"](ladder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scenes-cls, error of acc1: cosmos below clip from ")
    assert len([line for line in lines if line.startswith("| scenes-cls | acc1 | ")]) == 10
