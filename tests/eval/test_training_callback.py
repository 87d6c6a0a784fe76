"""Evaluations in training: the installed evaluator, its numbers, and several processes."""

from __future__ import annotations

import itertools
import random
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.processes import run_processes
from support.scene_files import write_scenes
from support.watching import evaluate_together

import cosmos_core
import cosmos_eval
from cosmos_core.config import WatchConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.evaluate import WEIGHTS, check_datasets, evaluate, find_evaluator
from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.recipes.scenes import scenes_architecture
from cosmos_eval import training

SCENES = 40  # more than a batch of images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small COSMOS model for the scenes; student and teacher have other random weights."""
    config = scenes_architecture()
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1
    torch.manual_seed(0)
    models = {name: cosmos_core.create_model(config) for name in ("student", "teacher")}
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    save_checkpoint(path, models, "cosmos", model_config(config), {})
    return path


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A segmentation, a retrieval and a classification set of few scenes, as a user's files."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return ",".join(write_scenes(folder, SCENES, "found", "named", "segmented"))


@pytest.fixture(scope="module")
def expected(checkpoint: Path, data_sets: str) -> dict[str, float]:
    """The same measurements by the public function, one at a time."""
    metrics = {}
    for weights, path in itertools.product(WEIGHTS, data_sets.split(",")):
        row = cosmos_eval.evaluate(f"cosmos:{checkpoint}", path, weights=weights, device="cpu")
        metrics |= {f"{row.dataset}/{weights}/{name}": row.metrics[name] for name in row.metrics}
    return metrics


def test_the_installed_evaluator_is_this_package():
    assert find_evaluator() is training
    (point,) = entry_points(group="cosmos_core.evaluators")
    assert point.value == "cosmos_eval.training"


def test_without_an_evaluator_a_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # where installed packages are looked for
    with pytest.raises(ValueError, match=r"none is installed: pip install cosmos-eval, or --set"):
        find_evaluator()


def test_metrics_are_those_of_cosmos_eval(checkpoint, data_sets, expected, capsys):
    watch = WatchConfig(datasets=data_sets, evaluate_every=1)
    metrics = evaluate(training, checkpoint, watch, World())
    assert metrics == pytest.approx(expected, abs=1e-6)  # batches of other sizes round otherwise
    assert metrics["named/teacher/acc5"] != metrics["named/student/acc5"]
    assert {"found", "named", "segmented"} == {name.split("/")[0] for name in metrics}
    assert capsys.readouterr() == ("", "")


def test_the_random_generators_are_left_alone(checkpoint, data_sets):
    watch = WatchConfig(datasets=data_sets.split(",")[-1], evaluate_every=1)

    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(1).item()

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    undisturbed = draw()
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
    evaluate(training, checkpoint, watch, World())
    assert draw() == undisturbed


def test_embedded_and_downloaded_data_sets_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path))
    training.check(["scenes-retrieval", "scenes-cls", "scenes-seg"], None)
    assert len(list(tmp_path.glob("scenes-*/coco/images/test/*.jpg"))) == 500
    with pytest.raises(ValueError, match="coco-val2017: no captions below"):
        training.check(["coco-val2017"], str(tmp_path))


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ("scenes-clss", "unknown data set 'scenes-clss'; nearest: scenes-cls"),
        ("scenes-cls, scenes-cls", r"scenes-cls \(scenes\) is given twice"),
        ("voc20", "voc20 is not embedded: name its folder"),
        (" ,", "watch.datasets names no data set"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(datasets, message):
    watch = WatchConfig(datasets=datasets, evaluate_every=1)
    with pytest.raises(ValueError, match=message) as caught:
        check_datasets(training, watch, World())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("best", "message"),
    [
        ("scenes-cls/teacher/acc2", "nearest: .*scenes-cls/teacher/acc1, "),
        ("scenes-retrieval/teacher/text_to_image_mean_rank", "of which higher values are better"),
        ("acc1", "save.best=acc1 is not a metric of the evaluations"),
    ],
)
def test_the_metric_of_the_best_snapshot_is_checked_before_training(best, message):
    watch = WatchConfig(datasets="scenes-cls,scenes-retrieval", evaluate_every=1)
    with pytest.raises(ValueError, match=message):
        check_datasets(training, watch, World(), best)
    for metric in ("scenes-cls/student/acc1", "scenes-retrieval/teacher/text_to_image_R@1"):
        check_datasets(training, watch, World(), metric)


def test_an_image_that_cannot_be_read_is_one_line(checkpoint, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "a.png")
    (tmp_path / "photos/dog/a.png").write_bytes(b"no image")
    (tmp_path / "pets.yaml").write_text("kind: cls\nfolder: photos\ntemplates: ['a {}']\n")
    watch = WatchConfig(datasets=str(tmp_path / "pets.yaml"), evaluate_every=1)
    with pytest.raises(ValueError, match=r"cannot decode image .*dog/a.png"):
        evaluate(training, checkpoint, watch, World())


@pytest.mark.slow
def test_two_processes_share_the_samples_and_agree(checkpoint, data_sets, expected):
    first, second = run_processes(evaluate_together, 2, checkpoint, data_sets)
    for record in (first, second):
        assert record["metrics"] == pytest.approx(expected, abs=1e-6)
        assert record["error"].startswith("unknown data set 'nosuch'")
    # Retrieval and classification by both weights: the second batch is the second process's.
    assert (first["batches"], second["batches"]) == ([32] * 4, [SCENES - 32] * 4)
