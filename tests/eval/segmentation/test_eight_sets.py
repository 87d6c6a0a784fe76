"""Every published set, in its documented layout, measured from its files to the metrics."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
from support.sets import PRESENT, SIZES, write_sets

import cosmos_eval
from cosmos_eval.data.label_maps import dataset_class
from cosmos_eval.protocols.segmentation import SEGMENTATION


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_sets(root)
    return root


def test_all_eight_sets_are_here():
    assert set(PRESENT) >= {name for name, p in SEGMENTATION.items() if p.protocol_name == "cosmos"}
    assert len(PRESENT) == 8


@pytest.mark.parametrize("dataset", PRESENT)
def test_a_tiny_model_is_measured_from_files_to_metrics(dataset, data_root, tiny_archs):
    row = cosmos_eval.evaluate(
        f"openclip:{tiny_archs['tiny']}/random",
        replace(SEGMENTATION[dataset], templates=("a photo of a {}.",)),  # 1 of 80
        data_root=str(data_root),
        device="cpu",
        batch_size=64,
        allow_partial=True,
    )
    assert row.n_samples == len(SIZES)
    labelled_classes = {name for name, scores in row.per_class.items() if scores["Acc"] is not None}
    assert labelled_classes == set(PRESENT[dataset][1])
    assert {"mIoU", "mAcc", "aAcc"} <= set(row.metrics)
    assert all(0 <= value <= 1 for value in row.metrics.values())


@pytest.mark.parametrize("dataset", sorted(PRESENT.keys() - {"coco_object"}))
def test_suffixes_are_those_of_mmsegmentations_class(dataset):
    protocol = SEGMENTATION[dataset]
    defaults = inspect.signature(dataset_class(protocol.mmseg_type).__init__).parameters
    assert protocol.image_suffix == defaults["img_suffix"].default
    assert protocol.mask_suffix == defaults["seg_map_suffix"].default
