"""MMEngine's Runner against our own runner: the same label maps, so the same counts."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos_eval.data.label_maps import mmseg_module, open_data, read_label
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import RunOptions, UsageError

ROOT = Path(__file__).parents[3]
PARITY = ROOT / "tests" / "parity"
MODEL = f"cosmos:{PARITY / 'checkpoint.pt'}"
ARCH = str(PARITY / "model_config.json")

OWN_SET = """
kind: seg
images: JPEGImages
masks: SegmentationClass
split: ImageSets/Segmentation/val.txt
classes: [background, {name: cat, queries: [cat, kitten]}, dog, grass]
templates: ["a photo of a {}."]
short_side: 96
window: 64
stride: 32
prob_thd: 0.26
area_thd: 0.05
scale: 5
ignore_index: 9
refinement: pamr
"""


@pytest.fixture(scope="module")
def mmseg_model() -> ModuleType:
    """Imported here, since MMSegmentation takes seconds, which no other test needs."""
    from cosmos_eval.tasks.segmentation import mmseg_model

    return mmseg_model


@pytest.fixture(scope="module")
def own_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file beside images and label maps in VOC's layout."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    sizes = {"2007_000032": (60, 90), "2007_000039": (97, 40), "2007_000063": (48, 210)}
    for name, size in sizes.items():
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize(size[::-1]).save(root / "JPEGImages" / f"{name}.jpg")
        label = np.kron(rng.integers(0, 4, (8, 8)), np.ones((30, 30), int))[: size[0], : size[1]]
        label = np.where(rng.random(size) < 0.1, 9, np.resize(label, size))
        Image.fromarray(label.astype(np.uint8)).save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(sizes))
    (root / "own.yaml").write_text(OWN_SET)
    return root / "own.yaml"


def run_mmengine(config: str, folder: Path, options: list[str], **environment: str):
    """The documented command in an empty folder, where it writes label maps to `maps`."""
    command = [sys.executable, str(ROOT / "benchmarks/mmseg/run.py")]
    command += [str(ROOT / "benchmarks/mmseg" / config), "--cfg-options", *options]
    command += ["test_dataloader.num_workers=0", f"test_evaluator.output_dir={folder / 'maps'}"]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def metrics_of(output: str) -> dict[str, float]:
    words = output.splitlines()[-1].split()
    return {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.slow
def test_a_config_by_name_gives_our_label_maps(own_set, tmp_path):
    completed = run_mmengine(
        "by_name.py", tmp_path, [f"model.arch={ARCH}"], MODEL=MODEL, DATASET=str(own_set)
    )
    assert completed.returncode == 0, completed.stderr
    plan = make_plan(
        datasets=[str(own_set)],
        models=[MODEL],
        arch=ARCH,
        options=RunOptions(device="cpu", save_predictions=str(tmp_path / "ours"), batch_size=7),
    )
    (finished,) = run_all(plan)
    for name, percent in metrics_of(completed.stdout).items():
        assert 100 * finished.row.metrics[name] == pytest.approx(percent, abs=0.0051)
    our_paths = sorted((tmp_path / "ours").rglob("*.png"))
    assert len(our_paths) == 3
    different = 0
    for path in our_paths:
        with Image.open(path) as our_map, Image.open(tmp_path / "maps" / path.name) as mmseg_map:
            assert len(np.unique(our_map)) > 1
            different += int((np.asarray(our_map) != np.asarray(mmseg_map)).sum())
    assert different == 0


def test_mmsegmentations_own_data_set_class_gives_the_recorded_scores():
    """The config's parts put together here, since starting a second process takes seconds."""
    from mmengine.config import Config
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS, METRICS, MODELS

    config = Config.fromfile(ROOT / "benchmarks/mmseg/voc21.py")
    config.model.update(model=MODEL, arch=ARCH)
    config.test_dataloader.dataset.data_root = str(PARITY / "voc")
    with DefaultScope.overwrite_default_scope("mmseg"):
        data = DATASETS.build(config.test_dataloader.dataset)
        segmentor = MODELS.build(config.model)
        metric = METRICS.build(config.test_evaluator)
    metric.dataset_meta = data.metainfo
    for sample in data:
        outputs = segmentor.test_step(pseudo_collate([sample]))
        metric.process({}, [output.to_dict() for output in outputs])
    recorded = json.loads((PARITY / "segmentation.json").read_text("utf-8"))["voc21-csa"]
    assert metric.evaluate(len(data)) == pytest.approx(recorded, abs=0.01)


def test_bad_input_ends_with_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "none.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks/mmseg/run.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "error: none.py: no such file" in capsys.readouterr().err


def test_names_are_checked_before_a_model_is_loaded(mmseg_model):
    with pytest.raises(UsageError, match="unknown data set 'voc22'; nearest: voc2"):
        mmseg_model.CosmosSegmentor("cosmos:not-there.pt", "voc22")


@pytest.mark.parametrize("dataset", ["voc20", "voc21"])
def test_labels_are_those_of_our_own_reading(dataset, mmseg_model):
    root = str(PARITY / "voc")
    protocol = find_protocol(dataset)
    pipeline = [{"type": "LoadAnnotations", "_scope_": "mmseg"}]
    data = mmseg_model.CosmosEvalDataset(dataset, root, pipeline=pipeline, allow_partial=True)
    assert data.metainfo["classes"] == protocol.class_names
    assert len(data.metainfo["palette"]) == len(protocol.class_names)
    samples = open_data(protocol, RunOptions(data_root=root, allow_partial=True)).samples
    assert len(data) == len(samples)
    for record, sample in zip(data, samples, strict=True):
        assert record["img_path"] == str(sample.image)
        assert (record["gt_seg_map"] == read_label(sample, protocol)).all()


def test_ignored_pixels_become_255(own_set, mmseg_model):
    pipeline = [{"type": "LoadAnnotations", "_scope_": "mmseg"}]
    data = mmseg_model.CosmosEvalDataset(str(own_set), pipeline=pipeline)
    labels = [record["gt_seg_map"] for record in data]
    assert {value for label in labels for value in np.unique(label)} == {0, 1, 2, 3, 255}


def test_images_alone_can_be_segmented(own_set, mmseg_model):
    segmentor = mmseg_model.CosmosSegmentor(MODEL, str(own_set), arch=ARCH)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((50, 61), (33, 20))]
    samples = segmentor.test_step({"inputs": images})
    for image, sample in zip(images, samples, strict=True):
        assert sample.pred_sem_seg.data.shape == (1, *image.shape[1:])
        assert sample.pred_sem_seg.data.dtype == torch.int64
    with pytest.raises(NotImplementedError, match="can be tested, not trained"):
        segmentor(images, samples, mode="loss")


def test_another_kind_of_data_set_is_refused(mmseg_model):
    with pytest.raises(UsageError, match="coco-val2017 is not a segmentation data set"):
        mmseg_model.CosmosEvalDataset("coco-val2017")


def test_placeholder_is_gone_after_the_import():
    assert hasattr(mmseg_module("datasets"), "PascalVOCDataset")
    assert hasattr(mmseg_module("models"), "BaseSegmentor")
    assert "mmcv._ext" not in sys.modules
    if importlib.util.find_spec("mmcv._ext") is not None:
        pytest.skip("MMCV is compiled here")


def test_what_an_import_prints_is_not_in_the_output(monkeypatch, tmp_path, capsys):
    """As a fork of MMSegmentation prints, before the JSON document of `run --json`."""
    mmseg = importlib.import_module("mmseg")
    (tmp_path / "chatty.py").write_text("print('Could not import OneDL')\nVALUE = 1\n")
    monkeypatch.setattr(mmseg, "__path__", [*mmseg.__path__, str(tmp_path)])
    assert mmseg_module("chatty").VALUE == 1
    assert capsys.readouterr().out == ""
    print("the output is back")
    assert capsys.readouterr().out == "the output is back\n"


def test_calling_a_compiled_operation_fails():
    mmseg_module("datasets")
    if importlib.util.find_spec("mmcv._ext") is not None:
        pytest.skip("MMCV is compiled here")
    from mmcv.ops import nms

    with pytest.raises(RuntimeError, match="nms is not part of mmcv-lite"):
        nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
