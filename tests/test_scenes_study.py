"""benchmarks/scenes_study.py: what is missing, how a stopped study goes on, what is chosen."""

import importlib.util
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cosmos_core.cli import app
from cosmos_core.recipes.overrides import override
from cosmos_core.utils.files import file_sha256

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scenes_study.py"
SPEC = importlib.util.spec_from_file_location("scenes_study", SCRIPT)
study = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(study)

SMALL = study.Study("debug", {"CLIP": 2, "COSMOS": 1}, n_trials=2, has_equal_compute=False)
NOTHING = study.read_runs(Path("nowhere"))


def rows(job, values, sha="0"):
    """The rows of runs.csv of a training, with these values of its metrics."""
    pairs = zip(job.metrics, values, strict=True)
    common = {"variant": job.title, "seed": job.config.seed, "weights_sha256": sha}
    common |= {"command": job.command, "identity": job.identity}
    common |= {"samples_seen": 100, "seconds": 50.0}
    return [{**common, "dataset": d, "metric": m, "value": value} for (d, m), value in pairs]


def frame(*groups):
    return pd.DataFrame([row for group in groups for row in group])


def jobs_of(title, runs=NOTHING, plan=SMALL, *, is_trial=False):
    return [job for job in study.plan(plan, runs) if (job.title, job.is_trial) == (title, is_trial)]


# R@1 of both directions, acc1 and mIoU. By tasks the first has 0.3, the second 0.8 / 3; by metrics
# the second would be ahead.
BETTER, WORSE = (0.2, 0.4, 0.1, 0.5), (0.6, 0.6, 0.1, 0.1)


def test_settings_are_chosen_by_the_mean_over_tasks_once_all_trials_are_there():
    first, second = jobs_of("CLIP", is_trial=True)
    assert study.score(first, frame(rows(first, BETTER))) == pytest.approx(0.3)
    assert study.score(second, frame(rows(second, WORSE))) == pytest.approx(0.8 / 3)
    assert study.choose([first, second], frame(rows(first, WORSE), rows(second, BETTER))) == 1
    assert study.choose([first, second], frame(rows(first, BETTER), rows(second, WORSE))) == 0
    assert study.choose([first, second], frame(rows(first, BETTER))) is None
    incomplete = rows(second, WORSE)[:-1]
    assert study.choose([first, second], frame(rows(first, BETTER), incomplete)) is None


def test_full_trainings_wait_for_the_settings_of_their_method():
    first, second = jobs_of("CLIP", is_trial=True)
    runs = frame(rows(first, WORSE), rows(second, BETTER))
    plan = study.plan(SMALL, runs)
    assert [job.title for job in plan] == [*["CLIP", "COSMOS"] * 2, "CLIP", "COSMOS", "CLIP"]
    assert [job.is_ready for job in plan if not job.is_trial] == [True, False, True]
    full = jobs_of("CLIP", runs)
    assert [job.config.seed for job in full] == [0, 1]
    for job in full:
        assert job.config.optim.batch_size == second.config.optim.batch_size == 64
        assert job.config.optim.steps == 768 // 64


def test_every_method_has_as_many_short_trainings_of_one_seed_on_as_many_samples():
    plan = study.Study("scenes_cosmos", dict.fromkeys(study.VARIANTS, 1), 3, has_equal_compute=True)
    settings = {}
    for row in study.VARIANTS:
        trials = jobs_of(row, plan=plan, is_trial=True)
        assert len({job.identity for job in trials}) == 3
        for config in (job.config for job in trials):
            assert config.seed == 0
            seen = config.optim.steps * config.optim.batch_size
            assert 32_000 - config.optim.batch_size < seen <= 32_000
        settings[row] = study.candidates(study.VARIANTS[row], plan)
    assert settings["CLIP"] == settings["SLIP"] == settings["multi-view CLIP"]
    assert settings["SILC"] == settings["COSMOS"] != settings["CLIP"]


def test_bundled_models_are_seed_0_where_their_settings_are_chosen():
    plan = study.Study("scenes_cosmos", {"CLIP": 1, "COSMOS": 1}, 2, has_equal_compute=True)
    small, large = (32, 0), (64, 1)
    for row, (_, number), name in (
        ("COSMOS", small, "scenes-cosmos"),
        ("CLIP", large, "scenes-clip"),
        ("CLIP, equal compute", large, "scenes-clip-long"),
    ):
        trials = jobs_of(row.partition(",")[0], plan=plan, is_trial=True)
        values = [BETTER if i == number else WORSE for i in range(2)]
        runs = frame(*(rows(job, value) for job, value in zip(trials, values, strict=True)))
        (job,) = jobs_of(row, runs, plan)
        assert study.bundled(job) == name
        other = frame(*(rows(job, v) for job, v in zip(trials, values[::-1], strict=True)))
        (job,) = jobs_of(row, other, plan)
        assert study.bundled(job) is None


def test_done_are_all_metrics_of_the_weights_that_are_there(tmp_path):
    job = jobs_of("CLIP", is_trial=True)[0]
    checkpoint = tmp_path / job.folder / "run" / study.CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    sha = file_sha256(checkpoint)
    assert not study.is_done(job, NOTHING, tmp_path)
    assert not study.is_done(job, frame(rows(job, BETTER, sha)[:-1]), tmp_path)
    assert not study.is_done(job, frame(rows(job, BETTER, "of others")), tmp_path)
    assert study.is_done(job, frame(rows(job, BETTER, sha)), tmp_path)
    assert study.is_done(job, frame(rows(job, BETTER, "of others")), tmp_path / "elsewhere")


def test_what_does_not_change_weights_does_not_make_another_training():
    command = "cosmos-train debug --set seed=3"
    same = f"{command} --set data.workers=5 --set save.every=7 --set watch.log_every=2"
    assert study.identity(command) == study.identity(same)
    other_settings = ("seed=4", "optim.lr=1", "data.shards=scenes:300", "compute.accumulate=2")
    identities = {
        study.identity(f"{command} --set {setting}") for setting in (*other_settings, "seed=3")
    }
    assert len(identities) == 5


SHORT_SLIP = "method=slip method.hidden=512 method.out=128 optim.steps=100 optim.warmup_steps=100"


@pytest.mark.parametrize(
    ("settings", "digits"),
    [
        ("optim.batch_size=64 optim.lr=0.002 seed=1 data.workers=0", "cf5ab28d0404a30d"),
        (SHORT_SLIP, "3392009dcd85c765"),
    ],
)
def test_identities_are_those_of_the_first_version(settings, digits):
    """Trainings of weeks are found by them: an option that is added must be in `recipe.ADDED`."""
    words = [word for setting in settings.split() for word in ("--set", setting)]
    command = " ".join(["cosmos-train scenes_cosmos", *words])
    assert study.identity(command).startswith(digits)


def test_the_table_names_seeds_and_leaves_the_rest_empty():
    first, second = jobs_of("CLIP")
    shares = [0.1] * 6, [0.4] * 6
    runs = frame(rows(first, shares[0]), rows(second, shares[1]))
    lines = study.table(SMALL, runs).splitlines()
    spread = statistics.stdev([10, 40])
    assert lines[2] == f"| CLIP | 0, 1 |{f' 25.0 ± {spread:.1f} |' * 6}"
    assert lines[3] == f"| COSMOS |  |{'  |' * 6}"
    lines = study.table(SMALL, frame(rows(first, shares[0]), rows(second, shares[1])[1:]))
    assert "| CLIP | 0, 1 | 10.0 (seed 0) | 25.0 ± " in lines


def test_maps_of_the_cross_attention_are_measured_of_cosmos_alone():
    plan = SMALL._replace(tune_budget=3)
    (job,) = jobs_of("COSMOS", plan=plan)
    assert {*study.CROSS_ATTENTION} <= {*job.metrics}
    assert not {*study.CROSS_ATTENTION} & {*jobs_of("CLIP", plan=plan)[0].metrics}
    lines = study.table(plan, frame(rows(job, [0.2] * len(job.metrics)))).splitlines()
    assert f"| COSMOS | 0 |{' 20.0 |' * len(study.CROSS_ATTENTION)}" in lines


class HereWorker(study.Worker):
    """Trains in this process, perhaps to be killed after two steps; metrics are made up."""

    killed = False

    def start(self, module, arguments, log):
        self.children.add("--resume" in arguments)
        ended = CliRunner().invoke(app, ["train", *arguments, "--set", "save.every=1"])
        assert ended.exit_code == 0, ended.output
        if self.killed:
            run = self.output / log.name.split("/")[-2] / "run"
            (run / study.CHECKPOINT).unlink()
            (run / "snapshots" / "step-00000003.pt").unlink()
            raise ValueError("killed")

    def measure(self, job, model, folder, log):
        sha = file_sha256(Path(model.removeprefix("cosmos:")))
        for dataset, metric in job.metrics:
            yield {"dataset": dataset, "metric": metric, "value": 0.5, "weights_sha256": sha}


def test_a_killed_study_goes_on(tmp_path, monkeypatch):
    shorter = ("optim.steps=3", "optim.batch_size=4", "data.shards=scenes:8")
    shorter += ("watch.pictures=false",)
    monkeypatch.setattr(study, "CHEAPER", (*study.CHEAPER, *shorter))
    plan = study.Study("debug", {"CLIP": 1, "COSMOS": 1}, n_trials=0, has_equal_compute=False)
    job, _ = study.plan(plan, NOTHING)
    output, results = tmp_path / "runs", tmp_path / "results"
    checkpoint = output / job.folder / "run" / study.CHECKPOINT
    study.render_training_scenes(output, job.config)

    def work(*, killed=False):
        """Whether each training that was started resumes another."""
        worker = HereWorker(plan, output, results, hours=1, variants=["CLIP"])
        worker.killed = killed
        worker.work()
        assert len(worker.failures) == killed
        return list(worker.children)

    assert work(killed=True) == [False]
    assert study.read_runs(results).empty
    assert work() == [True]
    assert len(study.read_runs(results)) == len(study.METRICS)  # COSMOS was not selected
    assert "| COSMOS |  |" in (results / "table.md").read_text(encoding="utf-8")
    resumed = load_file(checkpoint)
    assert work() == []  # nothing is missing
    (results / "runs.csv").unlink()
    assert work() == []  # it is measured again
    (results / "runs.csv").unlink()
    checkpoint.unlink()
    assert work() == [False]  # as if killed before its first snapshot
    uninterrupted = load_file(checkpoint)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in uninterrupted.items())


def test_studies_of_one_folder_render_its_scenes_once(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HELD_OUT_SCENES", 4)
    config = override(study.RECIPES["debug"](), ["data.shards=scenes:16"])
    monkeypatch.setattr(study, "RECIPES", {"debug": lambda: config})
    monkeypatch.setattr(study.signal, "signal", lambda *_: None)  # for the main thread alone
    plan = study.Study("debug", {"CLIP": 1}, n_trials=0, has_equal_compute=False)
    workers = [HereWorker(plan, tmp_path, tmp_path / "r", hours=1, variants=["CLIP"]) for _ in "ab"]
    for worker in workers:
        worker.stop.set()  # no training follows
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda worker: worker.run(1), workers))
    assert (tmp_path / "scenes-16").is_dir()


def test_the_table_that_the_page_on_the_study_links_follows_from_its_runs():
    root = SCRIPT.parents[1]
    assert "(../benchmarks/study/table.md)" in (root / "docs" / "study.md").read_text("utf-8")
    runs = pd.read_csv(root / "benchmarks" / "study" / "runs.csv")
    full = runs[runs["samples_seen"] >= 160_000].set_index(["variant", "dataset", "metric"])
    table = (root / "benchmarks" / "study" / "table.md").read_text("utf-8").split("\n\n")[0]
    methods = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert {name for name, *_ in methods} == set(full.index.get_level_values("variant"))
    for name, seeds, *cells in methods:
        for key, cell in zip(study.METRICS | study.TUNED, cells, strict=True):
            trainings = full.loc[[(name, *key)]]
            assert seeds == ", ".join(map(str, sorted(trainings["seed"])))
            percent = [100 * value for value in trainings["value"]]
            spread = statistics.stdev(percent)
            assert cell == f"{statistics.mean(percent):.1f} ± {spread:.1f}", (name, key)
