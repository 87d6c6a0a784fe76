"""`cosmos_eval.Evaluation` in loops of several processes: DistributedDataParallel and FSDP."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from support.hooked import (
    fail_alone,
    fail_in_second_process,
    measure_alone,
    measure_together,
    refuse_alone,
    tiny_model,
)
from support.processes import run_processes
from support.scene_files import write_scenes

import cosmos_eval
from cosmos_eval import Evaluation

SCENES = 40
ARCH = "cosmos-eval-hooked"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{ARCH}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return write_scenes(folder, SCENES, "found", "named", "segmented")


@pytest.fixture(scope="module")
def expected(configs: str, data_sets: list[str]) -> dict[str, float]:
    """The metrics of the same weights in one process."""
    evaluation = Evaluation(data_sets, on_error="raise")
    return evaluation(tiny_model(ARCH), tokenizer=open_clip.get_tokenizer(ARCH), step=0)


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="FSDP 1 refuses CPUs")


@pytest.mark.parametrize("wrapper", ["ddp", pytest.param("fsdp1", marks=NEEDS_GPU), "fsdp2"])
def test_processes_share_the_work(wrapper, configs, data_sets, expected, tmp_path):
    is_sharded = wrapper != "ddp"
    datasets = data_sets[:2] if is_sharded else data_sets
    arguments = (wrapper, configs, ARCH, datasets, str(tmp_path))
    first, second = run_processes(measure_together, 2, *arguments)
    assert first == second
    measured = {name: expected[name] for name in first["before"]}
    assert len({name.split("/")[0] for name in measured}) == len(datasets)
    assert first["before"] == pytest.approx(measured, abs=1e-6)
    assert first["after"] != first["before"]
    assert first["training"]

    rows = cosmos_eval.read_results(tmp_path)
    hashes = {row.model["step"]: row.model["weights_sha256"] for row in rows}
    assert len(rows) == 2 * len(datasets)
    assert len(set(hashes.values())) == 2


def test_the_hash_does_not_depend_on_sharding(configs, data_sets, tmp_path):
    hashes = set()
    for wrapper in ("none", "ddp", "fsdp2"):
        output = tmp_path / wrapper
        run_processes(measure_together, 2, wrapper, configs, ARCH, data_sets[1:2], str(output))
        (row,) = (row for row in cosmos_eval.read_results(output) if row.model["step"] == 0)
        hashes.add(row.model["weights_sha256"])
        n_parameters = sum(parameter.numel() for parameter in tiny_model(ARCH).parameters())
        assert row.model["facts"]["parameters"] == n_parameters
    assert len(hashes) == 1


def test_one_process_measures_alone(configs, data_sets, expected):
    first, second = run_processes(measure_alone, 2, configs, ARCH, data_sets[1])
    assert first == pytest.approx({name: expected[name] for name in first}, abs=1e-6)
    assert second == {}


def test_a_sharded_model_needs_all_processes(configs, data_sets):
    errors = run_processes(refuse_alone, 2, configs, ARCH, data_sets[1])
    assert errors == ["a sharded model needs all processes: all_processes=True"] * 2


def test_an_error_in_one_process_ends_the_call_of_all(configs, data_sets, expected):
    for messages, metrics in run_processes(fail_alone, 2, configs, ARCH, data_sets[1]):
        (message,) = messages
        assert message.startswith("evaluation at step 0 failed: ")
        assert "ValueError: no vocabulary" in message
        assert metrics == pytest.approx({name: expected[name] for name in metrics}, abs=1e-6)
        assert metrics


@pytest.mark.parametrize(
    ("place", "error"),
    [("texts", "ValueError: no vocabulary"), ("metrics", "MemoryError: no memory for metrics")],
)
def test_an_error_within_a_measurement_leaves_the_processes_in_step(
    place, error, configs, data_sets, expected
):
    arguments = (configs, ARCH, data_sets[:2], place)
    outcomes = run_processes(fail_in_second_process, 2, *arguments)
    for rank, (messages, metrics, total, later_metrics) in enumerate(outcomes):
        (message,) = messages
        assert "failed at step 0" in message
        prefix = "OtherProcessError: process 1 failed: " if rank == 0 else ""
        assert f"{prefix}{error}" in message
        assert metrics == pytest.approx({name: expected[name] for name in metrics}, abs=1e-6)
        assert total == 2
        measured = {name: expected[name] for name in later_metrics}
        assert later_metrics == pytest.approx(measured, abs=1e-6)
    first, second = outcomes
    assert first[1] == second[1]
    assert first[3] == second[3]
    assert len(first[1]) < len(first[3])
