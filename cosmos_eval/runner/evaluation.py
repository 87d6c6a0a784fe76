"""`cosmos_eval.Evaluation`: measure a model inside a training loop, whatever the framework."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed, gather_objects
from cosmos_eval import types
from cosmos_eval.data.readers import path_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.options import make_run_options
from cosmos_eval.runner.run import LoadedModel, measure
from cosmos_eval.tasks import task_for

if TYPE_CHECKING:
    from cosmos_eval.models.live import LiveEncoder

_MOST_ENCODERS = 4  # models whose encoders are kept, such as a student and its teacher


class Evaluation:
    """Measures a model that is being trained, and leaves it as it was.

    The first call reads, decodes and resizes the images of all data sets. Later calls take them
    from memory, so that they cost about as much as the forward passes. With several processes of
    `torch.distributed`, all of them call it together and share the images.

    Args:
        datasets: Names of known data sets, YAML files, dicts with the keys of such a file, or
            protocols.
        every: Calls measure at the steps that are multiples of it. Other calls return at once.
        best: The metric that chooses the best step, such as `"imagenet1k/acc1"`.
        name: The name of the training. Results are those of the model `NAME-stepSTEP`.
        output: The folder that results are stored in; None: they are not stored.
        data_root: The folder of downloaded data sets. Webdatasets are read from the hub's cache.
        limit: How many samples of each data set are measured, from the first one on; None: all.
        precision: `fp32`, `bf16`, `fp16` or `amp`; None: float32, unless the weights of the model
            are bfloat16 or float16.
        batch_size: How many images each process encodes at once.
        workers: How many threads prepare images.
        memory_gb: How many gigabytes of images each process keeps. Images beyond it are read again
            by each call. 10,000 images of 224 x 224 pixels take 1.5 GB.
        on_error: `warn`: an error becomes a warning, and the training goes on. `raise`: it is
            raised. In either case, the model is as it was before the call.

    Raises:
        UsageError: For unknown names, missing or inconsistent data, and a metric `best` that no
            data set has, all before the training.

    Example:
        ```python
        evaluation = Evaluation(datasets=["imagenet1k"], every=1000, best="imagenet1k/acc1")
        for step, batch in enumerate(loader, start=1):
            train_step(model, batch)
            metrics = evaluation(model, tokenizer=tokenizer, transform=transform, step=step)
        ```
    """

    def __init__(
        self,
        datasets: Sequence[str | os.PathLike[str] | Mapping[str, Any] | types.Protocol],
        *,
        every: int = 1,
        best: str | None = None,
        name: str = "model",
        output: str | Path | None = None,
        data_root: str | None = None,
        limit: int | None = None,
        precision: types.Precision | None = None,
        batch_size: int = types.RunOptions.batch_size,
        workers: int = types.RunOptions.workers,
        memory_gb: float = 16,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        """Open all data sets, and check everything that can be checked without a model."""
        from cosmos_eval.embedding.prepared import PreparedInputs

        _require(isinstance(every, int) and every >= 1, f"every must be 1 or more, not {every!r}")
        _require(on_error in ("warn", "raise"), f"on_error must be warn or raise, not {on_error!r}")
        _require(not isinstance(datasets, str) and bool(datasets), "datasets must be a list")
        self.every = every
        self.name = name
        self.on_error = on_error
        self.output = None if output is None else path_of(output, "output")
        self._precision = precision
        self._memory = PreparedInputs(limit=int(memory_gb * 1e9))
        data_options = types.DataOptions(data_root=data_root, limit=limit)
        model_options = types.ModelOptions(precision=precision or types.RunOptions.precision)
        options = make_run_options(
            data_options, model_options, batch_size=batch_size, workers=workers, use_cache=False
        )
        plans.require_outputs(options, self.output)
        options = replace(options, memory=self._memory)
        self._plan = plans.make_plan(datasets=datasets, options=options)
        self._datasets = plans.open_datasets(self._plan)
        self._encoders: list[_KeptEncoder] = []
        self._has_warned_of_limit = False

        # The metric that chooses the best step, and the best value so far.
        self.best = best
        self.best_value: float | None = None
        self.best_step: int | None = None
        # Whether the last call found the best value so far.
        self.is_best = False
        self._higher_is_better = True
        if best is not None:
            self._higher_is_better = self._find_metric(best)

    def is_due(self, step: int) -> bool:
        """Return whether a call at a step measures the model: at every multiple of `every`."""
        return step % self.every == 0

    def __call__(
        self,
        model: Any,
        *,
        step: int,
        tokenizer: Any = None,
        transform: Any = None,
        process_group: Any = None,
        all_processes: bool = True,
    ) -> dict[str, float]:
        """Measure a model on all data sets, if a measurement is due at this step.

        Args:
            model: A model of OpenCLIP or of transformers, another module with `encode_image` and
                `encode_text`, or a `TwoTower`. It may be inside DistributedDataParallel, FSDP or
                torch.compile.
            step: The step of the training.
            tokenizer: Maps a list of texts to tokens. For a model of transformers, its tokenizer.
                None for a `TwoTower`.
            transform: Maps an RGB image to pixels, as in an evaluation. For a model of
                transformers, its image processor. None for a `TwoTower` and for a model of
                OpenCLIP, which states its own. Give the same object in each call: the images in
                memory belong to it.
            process_group: The processes of `torch.distributed` that share the images; None: all.
            all_processes: True if all processes of the group make this call together. False if
                only this process makes it, and measures everything alone.

        Returns:
            Metrics by data set, such as `{"imagenet1k/acc1": 0.71}`, the same in all processes.
            They are fractions in [0, 1], and ranks start at 1. Empty if no measurement is due.

        Raises:
            UsageError: For a model, tokenizer or transform that cannot be used, with
                `on_error="raise"`.
        """
        self.is_best = False
        if not self.is_due(step):
            return {}
        metrics: dict[str, float] = {}
        try:
            distributed = _find_processes(process_group, all_processes=all_processes)
            from cosmos_eval.models.live import is_sharded

            if is_sharded(model) and not all_processes:
                raise types.UsageError("a sharded model needs all processes: all_processes=True")
            with self._live_encoder(model, tokenizer, transform, distributed) as encoder:
                for row in self._measure(encoder, step, distributed):
                    for metric, value in row.metrics.items():
                        metrics[f"{row.dataset}/{metric}"] = value
        except Exception as error:
            if self.on_error == "raise":
                raise
            reason = str(error) or type(error).__name__
            warnings.warn(f"evaluation at step {step} failed: {reason}", stacklevel=2)
        if self._memory.is_full and not self._has_warned_of_limit:
            self._has_warned_of_limit = True
            fault = "memory_gb is too small for all images: some are read in each call"
            warnings.warn(fault, stacklevel=2)
        self._note_best(metrics, step)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its step, to be stored in a checkpoint."""
        return {"best": self.best, "best_value": self.best_value, "best_step": self.best_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the best value and its step from the state of an earlier run.

        Raises UsageError if that run chose its best step by another metric.
        """
        if state["best"] != self.best:
            raise types.UsageError(f"the state has the best {state['best']}, not {self.best}")
        self.best_value = state["best_value"]
        self.best_step = state["best_step"]

    def _find_metric(self, best: str) -> bool:
        """Return whether higher values of the metric `best` are better.

        Raises UsageError if no data set has this metric.
        """
        directions = {}
        for dataset in self._datasets:
            for metric in task_for(dataset.protocol).metrics:
                if metric.is_ranked:
                    name = f"{dataset.protocol.dataset}/{metric.name}"
                    directions[name] = metric.higher_is_better
        if best not in directions:
            nearest = types.nearest(best, directions)
            raise types.UsageError(f"no data set has the metric {best}; nearest: {nearest}")
        return directions[best]

    def _note_best(self, metrics: Mapping[str, float], step: int) -> None:
        """Record whether the metric `best` has its best value so far."""
        value = metrics.get(self.best or "")
        if value is None:
            return
        former_value = self.best_value
        if former_value is None:
            self.is_best = True
        elif self._higher_is_better:
            self.is_best = value > former_value
        else:
            self.is_best = value < former_value
        if self.is_best:
            self.best_value, self.best_step = value, step

    @contextmanager
    def _live_encoder(
        self, model: Any, tokenizer: Any, transform: Any, distributed: Distributed
    ) -> Iterator[LiveEncoder]:
        """Give the encoder of a model in evaluation mode, and restore the model afterwards.

        The encoder of an earlier call with the same objects is used again. The arguments are those
        of a call.
        """
        from torch import nn

        from cosmos_eval.models import live
        from cosmos_eval.models.encoder import Encoder
        from cosmos_eval.models.user import TwoTower, referred_weights

        weights = [model]
        if not isinstance(model, nn.Module):
            if not isinstance(model, Encoder):
                class_name = type(model).__name__
                raise types.UsageError(f"model must be a module or an Encoder, not {class_name}")
            weights = [*referred_weights([vars(model)], set())]
        modules = [module for module in weights if isinstance(module, nn.Module)]
        with live.unchanged(modules):
            for module in modules:
                module.eval()
            if isinstance(model, nn.Module):
                weights_sha256 = live.hash_weights(model, distributed)
            else:
                if isinstance(model, TwoTower):
                    model.refresh_info()
                weights_sha256 = model.info.weights_sha256

            objects = (model, tokenizer, transform)
            encoder = self._find_encoder(objects)
            if encoder is None:
                made_encoder = live.make_encoder(
                    *objects, self.name, self._precision, weights_sha256
                )
                encoder = live.LiveEncoder(made_encoder, sharded=live.is_sharded(model))
                self._encoders = [*self._encoders, _KeptEncoder(objects, encoder)][-_MOST_ENCODERS:]
            encoder.join(distributed)
            encoder.set_weights(weights_sha256)
            yield encoder

    def _find_encoder(self, objects: tuple[Any, Any, Any]) -> LiveEncoder | None:
        """Return the encoder of an earlier call with the same objects, or None."""
        for kept in self._encoders:
            if all(a is b for a, b in zip(kept.objects, objects, strict=True)):
                return kept.encoder
        return None

    def _measure(
        self, encoder: LiveEncoder, step: int, distributed: Distributed
    ) -> Iterator[ResultRow]:
        """Yield the result of each data set, and store it if there is an output folder."""
        name = f"{self.name}-step{step}"
        encoder.info = encoder.info._replace(spec=name, name=None)
        spec = types.ModelSpec(text=name, kind="python", name=name)
        options = replace(
            self._plan.options,
            distributed=replace(distributed, gather=encoder.gather),
            precision=encoder.info.precision,
        )
        plan = replace(self._plan, specs=[spec], options=options)
        for job in plans.jobs_of(plan, self._datasets, output=self.output):
            model = LoadedModel(encoder, spec, options, step=step, facts=encoder.facts)
            for result in measure(model, job):
                assert result.row is not None  # an error would have been raised
                yield result.row
            encoder.facts = model.facts


class _KeptEncoder(NamedTuple):
    """The encoder of a model, and the objects that it was made of."""

    # The model, the tokenizer and the transform.
    objects: tuple[Any, Any, Any]
    encoder: LiveEncoder


def _require(is_met: bool, fault: str) -> None:
    """Raise UsageError with a fault unless a condition is met."""
    if not is_met:
        raise types.UsageError(fault)


def _find_processes(process_group: Any, *, all_processes: bool) -> Distributed:
    """Return the processes that share the images: those of a group, or only this one.

    Args:
        process_group: A group of `torch.distributed`; None: the group of all processes.
        all_processes: False if this process measures alone.
    """
    import torch.distributed as dist

    if not all_processes or not (dist.is_available() and dist.is_initialized()):
        return SINGLE_PROCESS
    gather = partial(gather_objects, group=process_group)
    return Distributed(dist.get_rank(process_group), dist.get_world_size(process_group), gather)
