"""benchmarks/scenes2_ladder.py: what each rung trains, and the tables of the ladder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from open_clip import ClipLoss
from scipy.stats import ttest_1samp
from support.benchmark_modules import BENCHMARKS, import_benchmarks
from support.models import select_samples, store
from support.shards import jpeg, tokenize
from support.training import ARCHITECTURE, tiny_views

from cosmos_core import create_teacher
from cosmos_core.data.samples import RawSample, ViewMaker
from cosmos_core.data.scenes import TRAIN, VERSION_2
from cosmos_core.data.scenes.scene import split_scenes
from cosmos_core.losses import cosmos_loss, gather_locally
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_eval.results.groups import compare, select_group_results
from cosmos_eval.results.store import read_samples, read_stored, result_paths
from cosmos_eval.tasks.suppression import DOMINANT, OBJECT, SMALL
from cosmos_eval.types import UsageError

NUMBERS = range(6)
RAW_RUNGS = (0, 1, 2)
IMAGE_RUNGS = (2, 3)


@pytest.fixture(scope="module")
def modules():
    """The command, its tables and the trainings of the study."""
    with import_benchmarks("scenes2_ladder", "_ladder_table", "_scenes2_jobs") as modules:
        yield modules


@pytest.fixture
def ladder(modules):
    return modules[0]


@pytest.fixture(scope="module")
def configs(modules):
    """The configuration of each rung."""
    return [override(RECIPES["scenes_tiny"](), rung.settings) for rung in modules[0].RUNGS]


def terms_of(method, student, teacher, views):
    """The loss terms of a method."""
    student_features = method.student_features(student, views)
    teacher_features = method.teacher_features(teacher, views)
    return method.loss(student_features, teacher_features, gather_locally)


def pair_of_models(method):
    """A student, and a teacher with other weights."""
    torch.manual_seed(0)
    student = method.create_student(ARCHITECTURE).eval()
    teacher = create_teacher(student)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return student, teacher


def mean_loss(first, second, scale):
    """OpenCLIP's loss, averaged over all pairs of views."""
    losses = [ClipLoss()(one, other, scale).item() for one in first for other in second]
    return sum(losses) / len(losses)


@torch.no_grad()
def plain_terms(rung, student, teacher, views):
    """The loss of a rung below cross-attention, by loops over views that are encoded one by one."""
    global_images = [student.encode_image(view, normalize=True) for view in views.global_images]
    local_images = [student.encode_image(view, normalize=True) for view in views.local_images]
    texts = [student.encode_text(view, normalize=True) for view in views.texts]
    terms = {"clip": mean_loss(global_images, texts, student.logit_scale.exp())}
    images = global_images + local_images
    teacher_images = [teacher.encode_image(view, normalize=True) for view in views.global_images]
    teacher_texts = [teacher.encode_text(view, normalize=True) for view in views.texts[:2]]
    if rung in IMAGE_RUNGS:
        scale = student.distill_logit_scale.exp()
        terms["distill"] = mean_loss(images, teacher_images, scale)
    elif rung == 4:
        scale = student.distill_logit_scale.exp()
        groups = []
        for student_views in (images, texts):
            for teacher_views in (teacher_images, teacher_texts):
                groups.append(mean_loss(student_views, teacher_views, scale))
        terms["distill"] = sum(groups) / 4
    return terms


@pytest.mark.parametrize("rung", NUMBERS[:5])
def test_the_loss_of_a_rung_equals_a_plain_one(configs, rung):
    method = configs[rung].method
    student, teacher = pair_of_models(method)
    views = tiny_views(method, samples=4, locals_=2)
    terms = terms_of(method, student, teacher, views)
    expected = plain_terms(rung, student, teacher, views)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_the_last_rung_is_cosmos_to_the_bit(configs):
    assert configs[5] == RECIPES["scenes_tiny"]()
    method = CosmosMethod()
    student, teacher = pair_of_models(method)
    views = tiny_views(method, samples=4, locals_=2)
    terms = terms_of(configs[5].method, student, teacher, views)
    expected = cosmos_loss(student.encode_views(views), teacher.encode_globals(views))
    assert [term.item() for term in terms.values()] == [term.item() for term in expected.values()]


def test_the_first_rung_is_clip_and_the_second_one_is_with_the_same_views(configs):
    assert configs[0].method == ClipMethod()
    # Of the image it sees what OpenCLIP's CLIP sees.
    crops, openclip_crops = configs[0].image, ClipMethod.image
    assert crops.global_scale == openclip_crops.global_scale == (0.9, 1.0)
    assert crops.jitter_p == crops.flip_p == crops.grayscale_p == crops.solarize_p == 0
    method = configs[1].method
    student, teacher = pair_of_models(method)
    single = tiny_views(ClipMethod(), samples=4)
    twice = single._replace(
        global_images=single.global_images.repeat(2, 1, 1, 1, 1), texts=single.texts.repeat(2, 1, 1)
    )
    clip = terms_of(ClipMethod(), student, teacher, single).total
    assert terms_of(method, student, teacher, twice).total.item() == pytest.approx(clip.item())


def test_only_the_lower_rungs_see_raw_captions_alone(configs):
    (scene,) = split_scenes(TRAIN, 1, version=VERSION_2)
    raw = scene.captions["raw_caption"]
    record = json.dumps(scene.captions).encode()
    for rung, config in enumerate(configs):
        maker = ViewMaker(config, tokenize)
        captions = maker.decode(RawSample(jpeg(0), record)).sentences
        assert (captions == raw) == (rung in RAW_RUNGS)
        assert set(raw) <= set(captions)
    counts = [config.method.counts for config in configs]
    assert [count.global_images for count in counts] == [1, 2, 2, 2, 2, 2]
    assert [count.local_images for count in counts] == [False, False, True, True, True, True]
    assert [count.local_texts for count in counts] == [False, False, False, True, True, True]


def test_rungs_are_the_studys_if_the_learning_rate_is_the_same(ladder, modules, monkeypatch):
    study = modules[2]
    rates = {"COSMOS": "0.001", "COSMOS without cross-attention": "0.001"}
    monkeypatch.setattr(ladder, "choose_learning_rates", lambda: rates)
    lower, fifth, last = ladder.RUNGS[0], ladder.RUNGS[4], ladder.RUNGS[5]
    names = [job.name for job in ladder.jobs_of(lower, rates)]
    assert names == ["ladder-clip-seed-0", "ladder-clip-seed-1", "ladder-clip-seed-2"]
    study_jobs = study.study_jobs(dict.fromkeys(study.METHODS, "0.001"))
    for rung in (fifth, last):
        for job in ladder.jobs_of(rung, rates):
            assert job in study_jobs
            assert job.settings[: len(rung.settings)] == [*rung.settings]
    jobs = ladder.rung_jobs()
    assert [job.seed for job in jobs] == [0] * 4 + [1] * 4 + [2] * 4
    assert {job.learning_rate for job in jobs} == {"0.001"}
    # Otherwise the ladder trains the rung with COSMOS's learning rate.
    rates["COSMOS without cross-attention"] = "0.002"
    jobs = ladder.jobs_of(fifth, rates)
    assert {type(job) for job in jobs} == {ladder.RungJob}
    assert {job.learning_rate for job in jobs} == {"0.001"}
    assert "method.cross_attention=false" in jobs[0].settings
    assert len(ladder.rung_jobs()) == 15
    assert [*ladder.jobs_by_rung(rates)] == [entry.rung.name for entry in ladder.RUNGS]
    del rates["COSMOS without cross-attention"]  # not tuned yet
    assert fifth.rung.name not in ladder.jobs_by_rung(rates)
    assert len(ladder.rung_jobs()) == 12
    *_, (_, fifth_group, fifth_folders), _ = ladder.rung_trainings(rates)
    assert (fifth_group, fifth_folders) == ("", [])
    del rates["COSMOS"]
    assert ladder.rung_jobs() == []


def test_rungs_are_measured_without_segmentation_into_the_ladders_folder(ladder):
    rates = {"COSMOS": "0.001", "COSMOS without cross-attention": "0.001"}
    job = ladder.jobs_of(ladder.RUNGS[0], rates)[0]
    sets = {"select", "beside", "siblings", "retrieval", "cls"}
    assert set(job.datasets) == {f"scenes2-{name}" for name in sets}
    assert not job.has_segmentation
    assert job.results_folder == BENCHMARKS / "scenes2" / "ladder" / "ladder-clip-seed-0"


def test_settings_of_all_rungs_fit_the_recipe(ladder):
    rates = {"COSMOS": "0.002", "COSMOS without cross-attention": "0.001"}
    names = set()
    for rung in ladder.RUNGS:
        job = ladder.jobs_of(rung, rates)[1]
        config = override(RECIPES["scenes_tiny"](), job.settings)
        assert (config.seed, config.optim.lr, config.optim.steps) == (1, 0.002, job.steps)
        assert config.recipe == job.group
        names.add(config.recipe)
    assert len(names) == 6


def samples_with_roles(skill, seed):
    """Items of which every other one asks for a small thing."""
    samples = select_samples(skill, np.random.default_rng(seed))
    roles = [(DOMINANT, SMALL)[n % 2] for n in range(len(samples["correct"]))]
    return samples | {OBJECT: np.array(roles)}


class Trainings:
    """Made-up results of the rungs of a ladder."""

    def __init__(self, folder, rungs):
        self.folder, self.rungs = folder, rungs

    def train(self, number, seed, skill):
        """Write the results of one training of a rung."""
        folder = self.folder / f"{number}-{seed}"
        draw = 100 * number + seed
        training = {"group": f"rung-{number}-0123abcd", "seed": seed, "data_sha256": "d" * 64}
        training |= {"recipe_sha256": None, "samples": 1000, "flops": (number + 1) * 1e12}
        model = {"spec": f"{number}-{seed}", "weights_sha256": f"{draw:064x}"}
        model["training"] = training
        for dataset, task in (
            ("scenes2-retrieval", "retrieval"),
            ("scenes2-cls", "cls"),
            ("scenes2-select", "select"),
            ("scenes2-siblings", "select"),
        ):
            samples = samples_with_roles(skill, draw) if task == "select" else None
            store(folder, task, skill, draw, dataset=dataset, samples=samples, model=model)

    def of(self, table):
        """The rungs with their results, as the command hands them to the table."""
        trainings = []
        for number, rung in enumerate(self.rungs):
            folders = sorted(self.folder.glob(f"{number}-*"))
            trainings.append(table.RungTrainings(rung, f"rung-{number}", folders))
        return trainings


SKILLS = (0.3, 0.35, 0.4, 0.7, 0.65, 0.72)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, modules):
    """Two trainings of each rung."""
    rungs = [entry.rung for entry in modules[0].RUNGS]
    trainings = Trainings(tmp_path_factory.mktemp("ladder"), rungs)
    for number, skill in enumerate(SKILLS):
        for seed in (0, 1):
            trainings.train(number, seed, skill)
    return trainings


def cells_of(lines, name):
    """The cells of the line of a table that begins with a name, of each table that has it."""
    rows = [line for line in "\n".join(lines).splitlines() if line.startswith(f"| {name} |")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def metric_of_trainings(trained, number, dataset, metric):
    """A stored metric of the trainings of a rung."""
    values = []
    for path in sorted(trained.folder.glob(f"{number}-*/*__{dataset}__*.json")):
        values.append(json.loads(path.read_text())["metrics"][metric])
    return np.array(values)


def test_means_and_steps_are_those_of_the_stored_metrics(trained, modules):
    table = modules[1]
    lines = [*table.report(trained.of(table), (0, 1), "A note.")]
    assert lines[0] == "# What each part of COSMOS brings on scenes\n"
    assert lines[1].startswith("- R@1 image to text: shown with the paper's sign: ")
    rung, step = cells_of(lines, "+ text augmentation")
    assert rung[1] == "0, 1"
    assert rung[-3:] == ["4", "50.4", "37.5"]  # TFLOPs, and the paper's figures
    sets = ("scenes2-retrieval", "scenes2-retrieval", "scenes2-select", "scenes2-select")
    sets += ("scenes2-siblings", "scenes2-cls")
    names = ("image_to_text_R@1", "text_to_image_R@1", "accuracy_small", "suppression")
    names += ("accuracy", "acc1")
    step_cells = [step[1], step[4], *step[7:]]
    for cell, step_cell, dataset, name in zip(rung[2:8], step_cells, sets, names, strict=True):
        values = 100 * metric_of_trainings(trained, 3, dataset, name)
        interval = ttest_1samp(values, 0).confidence_interval(0.95)
        assert cell == f"{values.mean():.1f} [{interval.low:.1f}, {interval.high:.1f}]"
        lower = 100 * metric_of_trainings(trained, 2, dataset, name)
        assert step_cell.startswith(f"{values.mean() - lower.mean():+.1f} [")
    assert step[2] == "+29.8"
    assert step[5] == "+22.9"


def test_intervals_of_steps_are_those_of_compare(trained, modules):
    table = modules[1]
    ladder = table.read_ladder(trained.of(table), (0, 1))
    steps = table.measured_steps(ladder)
    assert len(steps) == 5 * 6
    results = read_stored(result_paths(trained.folder))
    groups = [select_group_results(results, f"rung-{number}-0123abcd") for number in (1, 0)]
    comparison = compare(*groups, read_samples)
    tests = {(test.dataset, test.metric): test for test in comparison.tests}
    test = tests["scenes2-retrieval", "text_to_image_R@1"]
    interval = test.difference.interval()
    step = steps[table.Side("image augmentation", "R@1 text to image")]
    assert (step.low, step.high) == pytest.approx((100 * interval.low, 100 * interval.high))


def test_the_mean_of_trainings_by_hand(modules):
    mean_text = modules[1].mean_text
    assert mean_text([40.0, 50.0, 60.0]) == "50.0 [25.2, 74.8]"  # 4.303 * 10 / sqrt(3)
    assert mean_text([40.0]) == "40.0"
    assert mean_text([]) == ""


@pytest.mark.parametrize(
    ("difference", "low", "high", "text"),
    [
        (2.0, 1.0, 3.0, "same"),
        (2.0, -1.0, 5.0, "same, not shown"),
        (-2.0, -5.0, 1.0, "opposite, not shown"),
        (-2.0, -3.0, -1.0, "opposite"),
        (0.0, -1.0, 1.0, "none, not shown"),
    ],
)
def test_signs_of_steps(modules, difference, low, high, text):
    assert modules[1].Step(difference, low, high).sign_text(0.5) == text


def test_the_verdict_says_which_steps_are_shown_and_names_the_largest(trained, modules):
    table = modules[1]
    ladder = table.read_ladder(trained.of(table), (0, 1))
    titles = table.PAPER_METRICS
    names = [rung.name for rung in ladder.rungs[1:]]
    steps = {}
    for name in names:
        for title in table.METRICS:
            steps[table.Side(name, title)] = table.Step(1.0, 0.5, 1.5)
    steps[table.Side(names[0], titles[0])] = table.Step(-1.0, -2.0, -0.5)
    steps[table.Side(names[1], titles[0])] = table.Step(-1.0, -2.0, 0.5)
    steps[table.Side(names[2], titles[0])] = table.Step(9.0, -2.0, 20.0)
    steps[table.Side(names[4], titles[1])] = table.Step(9.0, 8.0, 10.0)
    assert [*table.verdict(ladder, steps)] == [
        "R@1 image to text: shown with the paper's sign: text self-distillation, cross-attention = "
        "COSMOS; with the opposite sign: image augmentation; not shown: image self-distillation, "
        "text augmentation. The largest step is text augmentation, also the paper's.",
        "R@1 text to image: shown with the paper's sign: image augmentation, image "
        "self-distillation, text augmentation, text self-distillation, cross-attention = COSMOS; "
        "with the opposite sign: none; not shown: none. The largest step is cross-attention = "
        "COSMOS, not text augmentation.",
    ]


def test_missing_trainings_leave_cells_empty(trained, modules, tmp_path):
    table = modules[1]
    few = trained.of(table)
    few[1] = few[1]._replace(folders=few[1].folders[:1])
    few[2] = few[2]._replace(folders=[], group="")
    lines = [*table.report(few, (0, 1), "A note.")]
    assert lines[0].startswith("# INTERIM: ")
    assert lines[1] == "- 9 of 12 trainings are complete."
    rung, step = cells_of(lines, "+ image augmentation")
    assert rung[1] == "0"
    assert "[" not in rung[2] != ""
    assert step[1:4] == ["", "+2.5", ""]
    rung, step = cells_of(lines, "+ image self-distillation")
    assert rung[1:8] == [""] * 7
    assert step[1] == step[7] == ""
    assert cells_of(lines, "+ text augmentation")[1][1] == ""
    assert cells_of(lines, "+ text self-distillation")[1][1] != ""
    assert "with the paper's sign" not in "\n".join(lines)
    # Of a training that lacks a data set, nothing is shown.
    for path in few[0].folders[1].glob("*.json"):
        if "siblings" not in path.name:
            target = tmp_path / few[0].folders[1].name / path.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    few[0] = few[0]._replace(folders=[few[0].folders[0], tmp_path / "0-1"])
    assert cells_of(table.report(few, (0, 1), "A note."), "CLIP")[0][1] == "0"


def test_results_that_were_edited_are_refused(trained, modules, tmp_path):
    table = modules[1]
    trainings = trained.of(table)
    folder = tmp_path / "0-0"
    folder.mkdir()
    for path in trainings[0].folders[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (path,) = folder.glob("*scenes2-cls*.json")
    path.write_text(path.read_text().replace('"acc1": 0.', '"acc1": 0.1'))
    trainings[0] = trainings[0]._replace(folders=[folder, trainings[0].folders[1]])
    with pytest.raises(UsageError, match="edited"):
        [*table.report(trainings, (0, 1), "A note.")]


def test_the_command_without_trainings(ladder, modules, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(modules[2], "TUNING_RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["scenes2_ladder.py"])
    ladder.main()
    out = capsys.readouterr().out
    assert out.startswith("# INTERIM: ")
    assert "0 of 18 trainings are complete" in out
    assert "The learning rate is not chosen yet" in out
    monkeypatch.setattr("sys.argv", ["scenes2_ladder.py", str(tmp_path / "output")])
    with pytest.raises(SystemExit) as ended:
        ladder.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("scenes2_ladder.py: The learning rate is not chosen yet")
    assert error.count("\n") == 1
    assert not (tmp_path / "output").exists()
