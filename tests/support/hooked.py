"""Processes that train a model together, and measure it in their loop."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from cosmos_core.engine.distributed import World
from cosmos_eval import Evaluation, UsageError
from cosmos_eval.runner import evaluation as runner_evaluation

BATCH = 8  # so that the first of two processes has four batches of 40 images, and the second one


def tiny_model(arch: str) -> Any:
    """A model of OpenCLIP with random weights, always the same."""
    torch.manual_seed(0)
    return open_clip.create_model(arch).train()


def measure_together(
    world: World, wrapper: str, configs: str, arch: str, datasets: list[str], output: str
) -> dict[str, Any]:
    """Measure a wrapped model, train a step, and measure it again.

    Returns what a test compares: the metrics before and after the step, the calls of towers in
    this process, the weights after the step, and whether a call of one process was refused.
    """
    open_clip.add_model_config(Path(configs))
    model = wrap(tiny_model(arch), wrapper)
    tokenizer = open_clip.get_tokenizer(arch)
    evaluation = Evaluation(
        datasets,
        batch_size=BATCH,
        output=output,
        on_error="raise",
    )
    before = evaluation(model, tokenizer=tokenizer, step=0)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(world.rank)
    images = torch.randn(4, 3, 32, 32)
    texts = torch.randint(1, 400, (4, 20))
    image_features, text_features, logit_scale = model(images, texts)[:3]
    (logit_scale * image_features @ text_features.T).diag().sum().neg().backward()
    optimizer.step()
    after = evaluation(model, tokenizer=tokenizer, step=1)
    return {"before": before, "after": after, "training": model.training}


def refuse_alone(world: World, configs: str, arch: str, dataset: str) -> str:
    """Return the error of a sharded model that one process would measure alone."""
    open_clip.add_model_config(Path(configs))
    model = wrap(tiny_model(arch), "fsdp2")
    evaluation = Evaluation([dataset], on_error="raise")
    try:
        evaluation(model, tokenizer=open_clip.get_tokenizer(arch), step=0, all_processes=False)
    except UsageError as error:
        return str(error)
    return ""


def fail_alone(
    world: World, configs: str, arch: str, dataset: str
) -> tuple[list[str], dict[str, float]]:
    """Measure with a tokenizer that fails in the second process, and then with a right one.

    Returns the warnings of the first measurement, and the metrics of the second one.
    """
    open_clip.add_model_config(Path(configs))
    model = wrap(tiny_model(arch), "ddp")
    tokenizer = open_clip.get_tokenizer(arch)

    def failing_tokenizer(texts: list[str]) -> torch.Tensor:
        if world.rank == 1:
            raise ValueError("no vocabulary")
        return tokenizer(texts)

    evaluation = Evaluation([dataset])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluation(model, tokenizer=failing_tokenizer, step=0)
    metrics = evaluation(model, tokenizer=tokenizer, step=1)
    return [str(warning.message) for warning in caught], metrics


def fail_in_second_process(
    world: World, configs: str, arch: str, datasets: list[str], place: str
) -> tuple[list[str], dict[str, float], float, dict[str, float]]:
    """Measure while the second process fails in the middle of the first data set.

    Args:
        world: The processes.
        configs: The folder of the configurations of models.
        arch: The name of the architecture.
        datasets: Two data sets.
        place: Where it fails: in the tokenizer ("texts"), or when the metrics are known
            ("metrics").

    Returns:
        The warnings and the metrics of this measurement, the sum of 1 over all processes, which
        fails if they are out of step, and the metrics of another measurement.
    """
    open_clip.add_model_config(Path(configs))
    model = wrap(tiny_model(arch), "ddp")
    tokenizer = open_clip.get_tokenizer(arch)
    n_measurements = 0

    def failing_tokenizer(texts: list[str]) -> torch.Tensor:
        is_of_data_set = len(texts) > 9  # the check of the model has fewer
        if place == "texts" and world.rank == 1 and is_of_data_set:
            raise ValueError("no vocabulary")
        return tokenizer(texts)

    def failing_measure(*arguments: Any) -> Any:
        nonlocal n_measurements
        n_measurements += 1
        yield from measure(*arguments)
        if world.rank == 1 and n_measurements == 1:
            raise MemoryError("no memory for metrics")

    evaluation = Evaluation(datasets)
    measure = runner_evaluation.measure
    with warnings.catch_warnings(record=True) as caught, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        if place == "metrics":
            patch.setattr(runner_evaluation, "measure", failing_measure)
        metrics = evaluation(model, tokenizer=failing_tokenizer, step=0)
    total = torch.ones(1)
    dist.all_reduce(total)
    later_metrics = evaluation(model, tokenizer=tokenizer, step=1)
    return [str(w.message) for w in caught], metrics, total.item(), later_metrics


def measure_alone(world: World, configs: str, arch: str, dataset: str) -> dict[str, float]:
    """Measure a model in the first process only, as OpenCLIP's own loop evaluates."""
    open_clip.add_model_config(Path(configs))
    model = wrap(tiny_model(arch), "ddp")
    if world.rank > 0:
        return {}
    evaluation = Evaluation([dataset], on_error="raise")
    tokenizer = open_clip.get_tokenizer(arch)
    return evaluation(model, tokenizer=tokenizer, step=0, all_processes=False)


def wrap(model: Any, wrapper: str) -> nn.Module:
    """Return a model inside a wrapper of PyTorch: "none", "ddp", "fsdp1" or "fsdp2"."""
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    if wrapper == "fsdp1":
        return fsdp.FullyShardedDataParallel(model, device_id=None, use_orig_params=True)
    if wrapper == "fsdp2":
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in (*model.visual.transformer.resblocks, *model.transformer.resblocks):
            fsdp.fully_shard(block, mesh=mesh)
        # FSDP refuses parameters without a dimension.
        return fsdp.fully_shard(model, mesh=mesh, ignored_params={model.logit_scale})
    return model
