"""MMSegmentation imports without MMCV's compiled operations, and leaves no trace of the trick."""

import importlib.util
import sys

import pytest

from cosmos_eval.data.label_maps import mmseg_module


def test_placeholder_is_gone_after_the_import():
    assert hasattr(mmseg_module("datasets"), "PascalVOCDataset")
    assert hasattr(mmseg_module("models"), "BaseSegmentor")
    assert "mmcv._ext" not in sys.modules
    if importlib.util.find_spec("mmcv._ext") is not None:
        pytest.skip("MMCV is compiled here")


def test_calling_a_compiled_operation_fails():
    mmseg_module("datasets")
    if importlib.util.find_spec("mmcv._ext") is not None:
        pytest.skip("MMCV is compiled here")
    import torch
    from mmcv.ops import nms

    with pytest.raises(RuntimeError, match="nms is not part of mmcv-lite"):
        nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
