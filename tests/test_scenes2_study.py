"""The study of scenes of version 2: its trainings are comparable, and its family names them."""

import dataclasses
import statistics

import pytest
import torch
import yaml
from support.benchmark_modules import BENCHMARKS, import_benchmarks

from cosmos_core.data.loading import make_loader
from cosmos_core.data.scenes import TRAIN, VERSION_2
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.engine.flops import sample_flops
from cosmos_core.engine.step import normalise, split_views
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


@pytest.fixture(scope="module")
def modules():
    """The command, its worker and the trainings of the study."""
    with import_benchmarks("scenes2_study", "_scenes2_worker", "_scenes2_jobs") as modules:
        yield modules


@pytest.fixture(scope="module")
def command(modules):
    return modules[0]


@pytest.fixture(scope="module")
def worker(modules):
    return modules[1]


@pytest.fixture(scope="module")
def study(modules):
    return modules[2]


@pytest.fixture(scope="module")
def flops(study, tmp_path_factory):
    """Floating-point operations of a sample by method, over 256 samples: they depend on texts."""
    root = tmp_path_factory.mktemp("scenes2") / "data"
    write_layouts(root, split=TRAIN, count=256, layouts=["shards"], version=VERSION_2)
    flops = {}
    for method in ("CLIP", "multi-view CLIP", "COSMOS"):
        config = override(RECIPES[study.RECIPE](), study.METHODS[method])
        data = dataclasses.replace(config.data, shards=f"{root}/shards/*.tar", workers=0)
        config = dataclasses.replace(config, data=data)
        batches = iter(make_loader(config, scenes_tokenizer(40, VERSION_2)))
        counts = []
        for _ in range(4):
            views = normalise(next(batches).views, torch.full((3,), 0.5), torch.full((3,), 0.25))
            for part in split_views(views, 8):
                counts.append(sample_flops(config, part))
        flops[method] = statistics.mean(counts)
    return flops


def test_equal_compute_is_the_compute_of_cosmos(study, flops):
    steps = RECIPES[study.RECIPE]().optim.steps
    assert [*study.EQUAL_COMPUTE_STEPS] == ["CLIP", "multi-view CLIP"]
    for method, more_steps in study.EQUAL_COMPUTE_STEPS.items():
        assert flops[method] * more_steps == pytest.approx(flops["COSMOS"] * steps, rel=0.015)


def test_trainings_differ_in_method_rate_steps_and_seed_alone(study):
    rates = dict.fromkeys(study.METHODS, "0.001")
    jobs = study.study_jobs(rates)
    assert len(jobs) == 8 * (8 + 2)
    assert len({job.name for job in jobs}) == 80
    assert study.TUNING_SEED not in {job.seed for job in jobs}
    configs = [override(RECIPES[study.RECIPE](), job.settings) for job in jobs]
    first = configs[0]
    for job, config in zip(jobs, configs, strict=True):
        text = dataclasses.replace(config.text, max_sentences=first.text.max_sentences)
        optim = dataclasses.replace(config.optim, steps=first.optim.steps)
        alike = dataclasses.replace(
            config,
            recipe=first.recipe,
            method=first.method,
            seed=first.seed,
            optim=optim,
            text=text if job.method == "FLAIR" else config.text,
        )
        assert alike == first
    # Seeds come one after the other, so that a stopped study has all methods.
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)


def test_the_family_names_every_training(study):
    family = yaml.safe_load((BENCHMARKS / "scenes2" / "family.yaml").read_text())
    jobs = study.study_jobs(dict.fromkeys(study.METHODS, "0.001"))
    groups = {}
    for job in jobs:
        config = override(RECIPES[study.RECIPE](), job.settings)
        groups.setdefault(job.row, (config.recipe, []))[1].append(job.seed)
    stated = {row: (entry["group"], entry["seeds"]) for row, entry in family["methods"].items()}
    assert stated == groups


@pytest.fixture
def scores(study, monkeypatch):
    """The score of each measured training by method and learning rate, which tests change."""
    scores = {}
    for method in study.METHODS:
        scores |= {(method, "0.0005"): 0.5, (method, "0.001"): 0.6, (method, "0.002"): 0.5}

    def is_measured(job):
        return job.is_tuning and (job.method, job.learning_rate) in scores

    def validation_score(folder):
        for method, learning_rate in scores:
            job = study.Job(method, method, learning_rate, study.TUNING_SEED, 2_500)
            if job.results_folder == folder:
                return scores[method, learning_rate]
        raise AssertionError(folder)

    monkeypatch.setattr(study, "is_measured", is_measured)
    monkeypatch.setattr(study, "validation_score", validation_score)
    return scores


def test_the_best_learning_rate_is_chosen_once_all_are_measured(study, scores):
    scores["SLIP", "0.0005"] = 0.6  # equal to that of 0.001
    del scores["COSMOS", "0.002"]
    chosen = dict.fromkeys(study.METHODS, "0.001") | {"SLIP": "0.0005"}
    del chosen["COSMOS"]
    assert study.choose_learning_rates() == chosen
    assert len({job.name for job in study.tuning_jobs()}) == 8 * 3
    # Methods whose learning rate is chosen are trained meanwhile, with equal compute too.
    assert study.possible_jobs() == [*study.tuning_jobs(), *study.study_jobs(chosen)]
    assert len(study.study_jobs(chosen)) == 8 * (7 + 2)
    scores["COSMOS", "0.002"] = 0.5
    assert study.choose_learning_rates() == chosen | {"COSMOS": "0.001"}
    assert len(study.possible_jobs()) == 8 * 3 + 8 * (8 + 2)


def test_larger_learning_rates_are_tried_while_the_largest_is_best(study, scores):
    scores["FLAIR", "0.002"] = scores["COSMOS", "0.002"] = 0.7
    larger = [job.name for job in study.tuning_jobs() if not study.is_measured(job)]
    assert larger == ["flair-lr-0.004", "cosmos-lr-0.004"]
    assert study.find_learning_rates("COSMOS").chosen is None
    scores["FLAIR", "0.004"], scores["COSMOS", "0.004"] = 0.6, 0.8
    assert study.find_learning_rates("FLAIR").chosen == "0.002"
    larger = [job.name for job in study.tuning_jobs() if not study.is_measured(job)]
    assert larger == ["cosmos-lr-0.008"]
    scores["COSMOS", "0.008"] = 0.9
    assert study.find_learning_rates("COSMOS").chosen == "0.008"


def test_a_diverged_training_is_the_worst_of_its_method(
    worker, study, scores, monkeypatch, tmp_path
):
    monkeypatch.setattr(study, "TUNING_RESULTS", tmp_path)

    def diverge(learning_rate):
        scores.pop(("COSMOS", learning_rate), None)
        (tmp_path / f"cosmos-lr-{learning_rate}").mkdir()
        (tmp_path / f"cosmos-lr-{learning_rate}" / "diverged.txt").touch()

    scores["COSMOS", "0.002"] = 0.7
    diverge("0.004")
    rates = ["0.0005", "0.001", "0.002", "0.004"]
    assert study.find_learning_rates("COSMOS") == (rates, "0.002")
    diverge("0.002")
    assert study.find_learning_rates("COSMOS") == (rates[:3], "0.001")
    diverge("0.001")
    assert study.find_learning_rates("COSMOS").chosen == "0.0005"
    diverge("0.0005")
    assert study.find_learning_rates("COSMOS").chosen is None
    assert "cosmos-lr-0.0005                              diverged" in [
        *worker.listing(study.tuning_jobs(), tmp_path)
    ]


def test_trainings_that_the_family_lists_as_failed_are_left_out(
    study, scores, monkeypatch, tmp_path
):
    family = yaml.safe_load(study.FAMILY.read_text())
    row = "CLIP, equal compute"
    family["failed"] = [
        {"method": "COSMOS", "seed": 3, "reason": "weights are not finite"},
        {"method": row, "seed": 0, "reason": "weights are not finite"},
    ]
    planned_names = {job.name for job in study.planned_jobs()}
    monkeypatch.setattr(study, "FAMILY", tmp_path / "family.yaml")
    study.FAMILY.write_text(yaml.safe_dump(family))
    failed_names = {"cosmos-seed-3", "clip-equal-compute-seed-0"}
    assert {job.name for job in study.planned_jobs()} == planned_names - failed_names
    assert {job.name for job in study.possible_jobs()} == planned_names - failed_names


def test_the_stored_trainings_decide_every_learning_rate_between_two_worse_ones(study):
    for chosen in study.choose_learning_rates().values():
        assert study.LEARNING_RATES[0] < chosen < study.LARGER_LEARNING_RATES[-1]


def test_hours_of_methods_that_have_no_finished_training_are_not_stated_as_zero(
    worker, study, tmp_path, monkeypatch
):
    monkeypatch.setattr(worker, "is_measured", lambda job: False)  # whatever is stored
    *_, hours, unknown = worker.listing(study.tuning_jobs(), tmp_path)
    assert hours.startswith("0.0 hours left")
    assert unknown.endswith(": " + ", ".join(sorted(study.METHODS)))


def test_the_command_lists_every_training(command, study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["scenes2_study.py", str(tmp_path), "--list"])
    command.main()
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    for row in (*study.METHODS, "clip-equal-compute", "multi-view-clip-equal-compute"):
        name = row.lower().replace(" ", "-")
        assert {f"{name}-seed-{seed}" for seed in range(8)} <= {*names}
