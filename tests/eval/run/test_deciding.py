"""Runs that stop when the answer is known: what they say, what they leave, and how they go on."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.forging import forge, packed, seal
from support.one_set import protocol_of, write_set

from cosmos_eval.cli.app import main
from cosmos_eval.results import decisions
from cosmos_eval.results.store import read_result, read_samples
from cosmos_eval.runner.deciding import make_deciding_run
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.stats.sequential import BoundedSequence, correct_over_sets
from cosmos_eval.tasks import known_tasks
from cosmos_eval.types import RunOptions

LIMIT = 80
SETS = ("scenes-cls", "scenes-retrieval", "scenes-select")
SELECTED = ("scenes-cls", "scenes-retrieval", "scenes-seg", "scenes-select")
CLIP, COSMOS = "scenes-clip", "scenes-cosmos"


def make_cache_without_embeddings(folder: Path) -> str:
    """Make a cache with the same rendered scenes, and without embeddings.

    Embeddings of other tests may be of other batches, which a CPU may round otherwise.
    """
    folder.mkdir()
    for entry in Path(os.environ["COSMOS_EVAL_CACHE"]).iterdir():
        if entry.name != "embeddings":
            (folder / entry.name).symlink_to(entry)
    return str(folder)


@pytest.fixture(scope="module")
def full_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return complete results of both models on the first scenes."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ["run", "--model", CLIP, "--model", COSMOS, "--limit", str(LIMIT)]
    for name in SELECTED:
        arguments += ["--dataset", name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSMOS_EVAL_CACHE", make_cache_without_embeddings(folder / "cache"))
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--output", str(folder / "results")])
    assert not ended.value.code
    return folder / "results"


def result_of(folder: Path, model: str, dataset: str) -> Path:
    """Return the path of the one result of a model on a data set, stopped or not."""
    (path,) = folder.glob(f"{model}__{dataset}__scenes__*.json")
    return path


def hits_of(folder: Path, model: str, dataset: str) -> np.ndarray:
    """Return the hits (N, items of a unit) of complete results, by plain formulas."""
    samples = read_samples(result_of(folder, model, dataset))
    if dataset == "scenes-cls":
        return (samples["top5"][:, 0] == samples["labels"])[:, None]
    if dataset == "scenes-retrieval":
        return (samples["image_to_text_rank"] == 1)[:, None]
    _, unit = np.unique(samples["cluster"], return_inverse=True)
    return np.array([samples["correct"][unit == number] for number in range(unit.max() + 1)])


def require_same_result(path: Path, expected_path: Path) -> None:
    """Check that results are equal up to rounding: a CPU may round other batches otherwise."""
    result, expected = read_result(path), read_result(expected_path)
    assert (result.n_samples, result.per_class) == (expected.n_samples, expected.per_class)
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-4)
    assert result.intervals.keys() == expected.intervals.keys()
    for name, interval in expected.intervals.items():
        ends = {"low": interval["low"], "high": interval["high"]}
        result_interval = dict(result.intervals[name])
        result_ends = {end: result_interval.pop(end) for end in ends}
        assert result_ends == pytest.approx(ends, rel=1e-3)
        assert result_interval == {"method": interval["method"], "level": interval["level"]}
    samples, expected_samples = read_samples(path), read_samples(expected_path)
    assert samples.keys() == expected_samples.keys()
    for name, expected_array in expected_samples.items():
        if expected_array.dtype.kind == "f":
            np.testing.assert_allclose(samples[name], expected_array, rtol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(samples[name], expected_array, err_msg=name)


def run(command: Callable, full_results: Path, *arguments: object, against: object = CLIP):
    """Measure COSMOS until it is decided, into the folder `out` beside the results of CLIP."""
    shutil.copytree(full_results, "out", dirs_exist_ok=True)
    for path in Path("out").glob(f"{COSMOS}__*"):
        path.unlink()
    options = ("--limit", LIMIT, "--output", "out", "--until", "decided")
    return command("run", "--model", COSMOS, *options, "--against", against, *arguments)


def test_a_run_stops_at_the_same_look_as_a_plain_loop_over_complete_results(command, full_results):
    ended = run(command, full_results, *(word for name in SETS for word in ("--dataset", name)))
    assert ended.status == 0, ended.err

    # The same by complete results: NumPy's permutation, and one sequence for each data set.
    sequences = {name: BoundedSequence(-1, 1) for name in SETS}
    lines = ended.out.splitlines()
    assert lines[-4] == f"A: {COSMOS}, B: {CLIP} (first {LIMIT} only) of out"
    for name, line in zip(SETS, lines[-3:], strict=True):
        new, old = (hits_of(full_results, model, name) for model in (COSMOS, CLIP))
        order = np.random.default_rng(0).permutation(len(new))
        for start in range(0, len(new), 32):
            end = min(start + 32, len(new))
            shard = order[start:end]
            sequences[name].update(new[shard].mean(axis=1) - old[shard].mean(axis=1))
            decision = correct_over_sets(sequences)[name].decision
            if decision != "undecided":
                break
        n_samples, total = end * new.shape[1], new.size
        difference = 100 * (new[order[:end]].mean() - old[order[:end]].mean())
        assert line.startswith(f"{name}: {decision}, {difference:+.1f}"), line
        assert f"after {n_samples:,} of {total:,} " in line
        if n_samples == total:
            continue
        row = read_result(result_of(Path("out"), COSMOS, name))
        assert row.model["name" if "name" in row.model else "spec"] == COSMOS
        assert list(row.metrics.values()) == [new[order[:end]].mean()]
        assert (row.n_samples, row.intervals) == (n_samples, {})
        assert f"stopped-after-{n_samples}-of-{total}" in result_of(Path("out"), COSMOS, name).name
    assert lines[-3].startswith("scenes-cls: A better, +71.9 [22.2, 93.8], after 32 of 80")


def test_a_stopped_run_is_marked_and_is_neither_ranked_nor_compared(command, full_results):
    assert run(command, full_results, "--dataset", "scenes-cls").status == 0
    stopped = result_of(Path("out"), COSMOS, "scenes-cls")
    assert command("verify", stopped).status == 0
    leaderboard = json.loads(command("leaderboard", "out", "--all", "--json").out)
    (entry,) = [row for row in leaderboard if row["model"].startswith(COSMOS)]
    assert "stopped after 32 of 80" in entry["model"]
    assert entry["metrics"] == {"acc1": pytest.approx(read_result(stopped).metrics["acc1"])}
    table = command("leaderboard", "out", "--all").out
    assert "(first 80 only, stopped after 32 of 80)" in table
    assert "Not ranked: results of a part of the samples only." in table

    clip = result_of(full_results, CLIP, "scenes-cls")
    ended = command("compare", stopped, clip)
    assert ended.status == 2
    assert "stopped before the last sample" in ended.err
    Path("stopped").mkdir()
    for path in (stopped, stopped.with_name(read_result(stopped).samples)):
        shutil.copy(path, "stopped")
    ended = command("compare", "stopped", clip)
    assert (ended.status, "only results of runs that stopped early" in ended.err) == (2, True)
    ended = command("compare", "out", full_results, "--model", CLIP)
    assert (ended.status, "left out: 1" in ended.err) == (0, True)
    ended = command("export", "stopped", "--format", "clip-benchmark", "--output", "other")
    assert (ended.status, Path("other").exists()) == (2, False)
    ended = command("audit", "stopped")
    assert (ended.status, ended.out) == (2, "")
    assert "not audited: results of runs that stopped early: 1" in ended.err

    update = ("--baseline", "line.json", "--update", "--reason", "none")
    ended = command("check", stopped, *update)
    assert (ended.status, Path("line.json").exists()) == (2, False)
    assert "run it again without --until" in ended.err
    ended = run(command, full_results, "--dataset", "scenes-cls", against=stopped)
    assert ended.status == 2


def test_a_resumed_run_gives_the_result_of_one_that_never_stopped(
    command, full_results, monkeypatch, tmp_path
):
    monkeypatch.setenv("COSMOS_EVAL_CACHE", make_cache_without_embeddings(tmp_path / "cache"))

    def start_at_64_images(sizes, n_samples):
        return 64

    # Means over classes wait for 500 images, and there are fewer here.
    monkeypatch.setattr(decisions, "start_for_classes", start_at_64_images)
    monkeypatch.setattr(decisions, "START", 64)
    datasets = ("scenes-cls", "scenes-seg")
    words = [word for name in datasets for word in ("--dataset", name)]
    assert run(command, full_results, *words).status == 0
    stopped_results = [read_result(result_of(Path("out"), COSMOS, name)) for name in datasets]
    assert {result.n_samples for result in stopped_results} <= {32, 64, 96}
    assert command("verify", *Path("out").glob(f"{COSMOS}__*.json")).status == 0

    ended = command("run", "--model", COSMOS, "--limit", LIMIT, "--output", "out", *words)
    assert ended.status == 0, ended.err
    assert f"32 of {LIMIT} images were embedded already" in ended.err
    assert "resumed: 64 of 80 images were measured already" in ended.err
    for name in datasets:
        expected_path = result_of(full_results, COSMOS, name)
        path = Path("out", expected_path.name)
        require_same_result(path, expected_path)
        result, expected = read_result(path), read_result(expected_path)
        assert result.provenance["hashes"] == expected.provenance["hashes"]


def test_a_run_decided_at_the_last_sample_is_complete(command, full_results):
    words = ("run", "--dataset", "scenes-cls", "--limit", 32, "--output", "out")
    assert command(*words, "--model", CLIP).status == 0
    ended = command(*words, "--model", COSMOS, "--until", "decided", "--against", CLIP)
    assert ended.status == 0, ended.err
    assert "scenes-cls: A better, +" in ended.out.splitlines()[-1]
    assert ended.out.splitlines()[-1].endswith("after 32 of 32 images (100%)")
    row = read_result(result_of(Path("out"), COSMOS, "scenes-cls"))
    assert "stopped" not in row.provenance
    assert "acc1" in row.intervals


def test_equal_models_are_undecided_or_the_same(command, full_results):
    baseline = result_of(full_results, COSMOS, "scenes-cls")
    ended = run(command, full_results, "--dataset", "scenes-cls", against=baseline)
    last = ended.out.splitlines()[-1]
    assert last.startswith("scenes-cls: undecided, +0.0 [-")
    assert last.endswith("after 80 of 80 images (100%)")
    # The result is the one of a usual run.
    ours = result_of(Path("out"), COSMOS, "scenes-cls")
    assert ours.name == baseline.name
    require_same_result(ours, baseline)
    ended = run(command, full_results, "--dataset", "scenes-cls", "--margin", 15, against=baseline)
    assert ended.out.splitlines()[-1].startswith("scenes-cls: same, +0.0 [-")
    assert read_result(result_of(Path("out"), COSMOS, "scenes-cls")).n_samples < LIMIT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--until", "decided"), "needs --against"),
        (("--against", CLIP), "go with --until decided"),
        (("--margin", "1"), "go with --until decided"),
        (("--until", "decided", "--against", "nobody"), "no result of such a model"),
        (("--until", "decided", "--against", "whole"), "results of 2 models"),
        (("--until", "decided", "--against", CLIP, "--margin", "0"), "above 0"),
        (("--until", "decided", "--dry-run"), "needs --against"),
        (("--until", "decided", "--against", CLIP, "--keep-going"), "--keep-going"),
        (("--until", "decided", "--against", CLIP, "--wordings", "3"), "leave --wordings out"),
        (("--until", "decided", "--against", CLIP, "--executor", "ray"), "--executor"),
        (("--until", "decided", "--against", CLIP, "--save-predictions", "p"), "--save-pred"),
        (("--until", "decided", "--against", CLIP, "--dataset", "scenes-loc"), "no result on"),
        (("--until", "decided", "--against", CLIP, "--limit", "9"), "limit is 9 and 80"),
    ],
)
def test_contradictory_options_are_refused_in_one_line(command, full_results, words, message):
    Path("whole").symlink_to(full_results)
    words = [*words, *(() if "--dataset" in words else ("--dataset", "scenes-cls"))]
    words += () if "--limit" in words else ("--limit", LIMIT)
    ended = command("run", "--model", COSMOS, "--output", "whole", *words)
    assert ended.status == 2
    assert message in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_other_images_under_the_same_names_are_refused(command, full_results, tmp_path):
    baseline = tmp_path / "other"
    shutil.copytree(full_results, baseline)
    path = result_of(baseline, CLIP, "scenes-cls")
    record = json.loads(path.read_text())
    record["provenance"]["hashes"]["content"] = 64 * "0"
    seal(path, record)
    words = ("--dataset", "scenes-retrieval", "--dataset", "scenes-cls")
    for result in baseline.glob(f"{COSMOS}__*"):
        result.unlink()
    ended = run(command, full_results, *words, against=baseline)
    assert ended.status == 2
    assert not list(Path("out").glob(f"{COSMOS}__*"))  # nothing was measured
    assert "hashes.content (images, label maps and labels" in ended.err


def test_tasks_that_need_all_samples_are_named(command, tmp_path):
    words = ("run", "--model", CLIP, "--dataset", "scenes-loc", "--limit", "4")
    assert command(*words).status == 0
    ended = command(*words, "--against", CLIP, "--until", "decided")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].endswith("scenes-loc: task loc needs all samples at once")


@pytest.mark.parametrize("task", [name for name, task in known_tasks().items() if task.can_stop])
def test_a_run_that_never_stops_is_a_usual_run(task, tiny_archs, tmp_path):
    """The hashes that are checked before the measurement, and all that is stored in the end."""
    write_set(tmp_path)
    model = f"openclip:{tiny_archs['tiny']}/random"
    options = RunOptions(cache=str(tmp_path / "cache"), unfinished=str(tmp_path / "unfinished"))
    protocol = protocol_of(task, tmp_path)
    if task == "boxes":
        protocol = replace(protocol, regions="crops")  # pooled features are computed image by image
    plan = make_plan(datasets=[protocol], models=[model], options=options)
    usual_folder, deciding_folder = tmp_path / "usual", tmp_path / "early"
    (usual,) = run_all(plan, output=usual_folder)
    run = make_deciding_run(
        plan, deciding_folder, against=str(usual_folder), until="decided", margin=0.5
    )
    (finished,) = run.run()
    (answer,) = run.answers
    assert (answer.decision, answer.n_samples) == ("undecided", answer.n_all_samples)
    assert finished.path.name == usual.path.name
    for field in ("metrics", "intervals", "per_class", "confusion_pairs", "n_samples", "samples"):
        assert getattr(finished.row, field) == getattr(usual.row, field)
    assert finished.row.provenance["hashes"] == usual.row.provenance["hashes"]
    assert finished.row.provenance["notes"] == usual.row.provenance["notes"]
    assert not list((tmp_path / "unfinished").rglob("*.safetensors"))


@pytest.fixture
def stopped(command, full_results) -> Path:
    assert run(command, full_results, "--dataset", "scenes-cls").status == 0
    return result_of(Path("out"), COSMOS, "scenes-cls")


def set_answer(record):
    record["answer"] = "B better"


def set_difference(record):
    record["difference"] += 0.01


def set_look(record):
    record["looks"][-1][1] += 0.01


def set_alpha(record):
    record["alpha"] /= 4


def set_seed(record):
    record["seed"] = 1


def set_method(record):
    record["method"] = "asymptotic"


def set_high_alpha(record):
    record["alpha"] = 0.2


def set_units(record):
    record["units"] = LIMIT + 1


def set_start(record):
    record["start"] = 8


@pytest.mark.parametrize(
    ("edit", "sign"),
    [
        (set_answer, "edited answer"),
        (set_difference, "edited difference"),
        (set_look, "edited looks"),
        (set_alpha, "edited"),
        (set_seed, "not in the order of seed 1"),
        (set_method, "the method is bounded"),
        (set_high_alpha, "alpha is 0.05 at most"),
        (set_units, "not in the order of seed 0"),
        (set_start, "after 500 samples or later"),
    ],
)
def test_verify_recomputes_the_decision(command, stopped, edit, sign):
    record = json.loads(stopped.read_text())
    edit(record["provenance"]["stopped"])
    seal(stopped, record)
    ended = command("verify", stopped)
    assert ended.status == 1
    assert sign in ended.out


def test_verify_finds_samples_of_a_later_look(command, stopped):
    """A run that saw one wrong prediction more has another metric and other looks."""
    samples = dict(read_samples(stopped))
    samples["top5"] = samples["top5"].copy()
    right = np.flatnonzero(samples["top5"][:, 0] == samples["labels"])
    samples["top5"][right[0], 0] = (samples["labels"][right[0]] + 1) % 10
    forge(stopped, packed(samples))
    ended = command("verify", stopped)
    assert ended.status == 1
    assert "edited metric acc1" in ended.out
    assert "edited looks" in ended.out


@pytest.fixture
def baseline_file(command, full_results) -> Path:
    """Make a baseline of COSMOS on all four data sets, under the name `model`."""
    Path("model").mkdir()
    rename(full_results, COSMOS, Path("model"))
    words = ("--baseline", "line.json", "--update", "--reason", "first")
    assert command("check", "model", *words).status == 0
    return Path("line.json")


def rename(source: Path, model: str, folder: Path, dataset: str = "*") -> None:
    """Copy the results of a model under the name `model`."""
    for path in source.glob(f"{model}__{dataset}__*.json"):
        record = json.loads(path.read_text())
        samples = path.with_name(record["samples"])
        record["model"]["name"] = "model"
        record["samples"] = samples.name.replace(model, "model")
        shutil.copy(samples, folder / record["samples"])
        seal(folder / path.name.replace(model, "model"), record)


def test_check_judges_stopped_and_complete_runs(command, full_results, baseline_file):
    # CLIP is worse. First its run stops early.
    words = [word for name in SETS for word in ("--dataset", name)]
    options = ("--limit", LIMIT, "--name", "model", "--output", "new")
    decided = ("--until", "decided", "--against", "model")
    assert command("run", "--model", CLIP, *words, *options, *decided).status == 0
    assert len(list(Path("new").glob("*stopped*.json"))) == 1
    ended = command("check", "new", "--baseline", baseline_file)
    assert "the run stopped before the last sample" in ended.err
    rename(full_results, CLIP, Path("new"), "scenes-seg")
    ended = command("check", "new", "--baseline", baseline_file, "--sequential", "--json")
    assert ended.status == 1
    report = json.loads(ended.out)
    findings = {finding["dataset"]: finding for finding in report["findings"]}
    assert findings["scenes-cls"]["decision"] == "regression"
    assert findings["scenes-cls"]["interval"]["high"] < 0
    # mIoU needs 500 images, and there are 80: that is a problem, not a number.
    (problem,) = [problem for problem in report["problems"] if "scenes-seg" in problem["where"]]
    assert "begins at 500 images, and there are 80" in problem["message"]
    assert set(findings) == {"scenes-cls", "scenes-retrieval", "scenes-select"}

    # The complete result of the same model takes the place of the one that stopped.
    rename(full_results, CLIP, Path("new"))
    ended = command("check", "new", "--baseline", baseline_file, "--sequential")
    assert ended.status == 1
    assert "since new/model__scenes-cls__scenes__first-80-only.json is whole" in ended.err
    assert "acc1 of 80 of 80 images, baseline better was known after 32" in ended.err


def test_a_stopped_run_beside_a_complete_result_is_left_out(command, full_results, baseline_file):
    shutil.copytree("model", "new")
    words = ("--limit", LIMIT, "--name", "model", "--output", "new", "--dataset", "scenes-cls")
    decided = ("--until", "decided", "--against", "model", "--margin", 20)
    assert command("run", "--model", COSMOS, *words, *decided).status == 0
    assert len(list(Path("new").glob("*stopped*.json"))) == 1
    ended = command("check", "new", "--baseline", baseline_file)
    assert ended.status == 0, ended.err
    assert "is whole" in ended.err
    words = ("--baseline", "other.json", "--update", "--reason", "again")
    assert command("check", "new", *words).status == 0
    assert len(json.loads(Path("other.json").read_text())["results"]) == len(SELECTED)


def test_check_without_a_regression(command, full_results, baseline_file):
    for path in Path("model").glob("*seg*"):
        path.unlink()
    words = ("--baseline", "line.json", "--update", "--reason", "without mIoU")
    assert command("check", "model", *words).status == 0
    ended = command("check", "model", "--baseline", baseline_file, "--sequential")
    assert ended.status == 0, ended.err
    assert ended.out.startswith("no regression shown, of 3 metrics")
    assert "undecided" in ended.err

    # Without samples, nothing is decided. A baseline needs complete results.
    assert command("check", "model", *words, "--metrics-only").status == 0
    ended = command("check", "model", "--baseline", baseline_file, "--sequential")
    assert ended.status == 2
    assert "--sequential needs samples, which --metrics-only left out" in ended.err
    assert command("check", "model", *words, "--sequential").status == 2


def test_python_has_the_same_options(full_results, tmp_path):
    import cosmos_eval

    options = {"limit": LIMIT, "until": "decided"}
    row = cosmos_eval.evaluate(
        COSMOS, "scenes-cls", against=result_of(full_results, CLIP, "scenes-cls"), **options
    )
    assert row.provenance["stopped"]["answer"] == "A better"
    assert row.n_samples == 32
    with pytest.raises(cosmos_eval.UsageError, match="needs --against"):
        cosmos_eval.evaluate(COSMOS, "scenes-cls", **options)
