"""Traces of steps, and what a GPU does at most."""

import json

import pytest

from cosmos_core.config import ComputeConfig
from cosmos_core.engine.flops import peak_flops
from cosmos_core.engine.trainer import Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


@pytest.mark.slow
def test_the_steps_that_are_chosen_are_traced(setting, scene_shards, capsys):
    settings = ["optim.steps=5", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"]
    config = override(RECIPES["scenes_clip"](), [*settings, "watch.profile=1,2"])
    Trainer(config, setting).run(scene_shards)
    (path,) = (setting.output / "profile").iterdir()
    assert path.name == "steps-1-2-rank-0.json"
    events = json.loads(path.read_text())["traceEvents"]
    optimizer = [e for e in events if str(e.get("name")).startswith("Optimizer.step")]
    assert len([e for e in optimizer if e.get("ph") == "X"]) == 2  # one a step
    assert f"trace: {path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-PCIE-40GB", "fp32", 156),
        ("NVIDIA H100 80GB HBM3", "fp16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200 NVL", "bf16", 835),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA A10G", "bf16", None),  # another card than the A10
        ("NVIDIA GH200 480GB", "bf16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA GeForce GTX 1080", "bf16", None),
    ],
)
def test_the_peak_is_that_of_the_data_sheet_or_none(name, precision, tera):
    assert peak_flops(name, ComputeConfig(precision=precision)) == (tera and tera * 1e12)


def test_without_tf32_the_peak_is_that_of_fp32():
    compute = ComputeConfig(precision="fp32", tf32=False)
    assert peak_flops("NVIDIA H100 80GB HBM3", compute) == 67e12
