"""`cosmos_eval.Evaluation`: measure a model inside a training loop."""

from __future__ import annotations

import inspect
import operator
import os
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cosmos_core.utils.distributed import (
    SINGLE_PROCESS,
    Distributed,
    SharedErrors,
    gather_objects,
)
from cosmos_core.utils.files import json_sha256
from cosmos_eval import types
from cosmos_eval.data.readers import path_of
from cosmos_eval.models.specs import require_label
from cosmos_eval.results.record import ResultRow
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.options import make_run_options
from cosmos_eval.runner.run import LoadedModel, measure
from cosmos_eval.runner.suites import refuse_repeated
from cosmos_eval.tasks import task_for

if TYPE_CHECKING:
    from cosmos_eval.models.live import LiveEncoder

# How many encoders are kept, such as those of a student and its teacher. An encoder also keeps its
# model in memory, which matters if each call is given a new copy of a model.
_MOST_ENCODERS = 2
_HINT = '(on_error="raise" shows where)'


class Evaluation:
    """Measures a model that is being trained, and leaves it as it was.

    The first call reads, decodes and resizes the images of all data sets. Later calls take them
    from memory, so that they cost about as much as the forward passes. With several processes of
    `torch.distributed`, all of them call it together and share the images.

    Args:
        datasets: A list of names of known data sets, YAML files, dicts with the keys of such a
            file, or protocols.
        every: Calls measure at step 0 and at multiples of it. Other calls return at once.
        best: The metric that chooses the best step, such as `"imagenet1k/acc1"`.
        name: The name of the training. Results have the model name `NAME-stepSTEP`.
        output: The folder that results are stored in; None: they are not stored.
        data_root: The folder of downloaded data sets. Webdatasets are read from the hub's cache.
        limit: How many samples of each data set are measured, from the first one on; None: all.
        precision: `fp32`, `bf16`, `fp16` or `amp`; None: float32, unless weights of the model are
            bfloat16 or float16. A `TwoTower` has a precision of its own.
        batch_size: How many images each process encodes at once.
        workers: How many threads prepare images.
        memory_gb: How many gigabytes of images each process keeps. Images beyond it are read again
            by each call. 10,000 images of 224 x 224 pixels take 1.5 GB.
        on_error: `warn`: an error becomes a warning, the other data sets are measured, and the
            training goes on. `raise`: it is raised. In either case, the model is as it was before
            the call.

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

        is_list = isinstance(datasets, Sequence) and not isinstance(datasets, str)
        _require(is_list and bool(datasets), "datasets must be a list of names or files")
        _require(on_error in ("warn", "raise"), f"on_error must be warn or raise, not {on_error!r}")
        _require(memory_gb >= 0, f"memory_gb must be 0 or more, not {memory_gb}")
        _require(isinstance(name, str), f"name must be a text, not {name!r}")
        _require(best is None or isinstance(best, str), f"best must be one metric, not {best!r}")
        require_label(name)
        self.every = _whole_number("every", every, least=1)
        self.name = name
        self.on_error = on_error
        self.output = None if output is None else path_of(output, "output")
        self._precision = precision
        self._memory = PreparedInputs(limit=memory_gb * 1e9)
        data_options = types.DataOptions(data_root=data_root, limit=limit)
        model_options = types.ModelOptions(precision=precision or types.RunOptions.precision)
        options = make_run_options(
            data_options, model_options, batch_size=batch_size, workers=workers, use_cache=False
        )
        plans.require_outputs(options, self.output)
        options = replace(options, memory=self._memory)
        self._plan = plans.make_plan(datasets=datasets, options=options)
        # Metrics are named by their data set only.
        dataset_names = [protocol.dataset for protocol in self._plan.protocols]
        refuse_repeated(dataset_names, "make an Evaluation for each protocol: ")
        self._datasets = plans.open_datasets(self._plan)
        self._encoders: list[_KeptEncoder] = []
        self._has_warned_of_limit = False

        # The metric that chooses the best step, and the best value so far.
        self.best = best
        self.best_value: float | None = None
        self.best_step: int | None = None
        # The hash of the data and the settings of this value.
        self._best_data_sha256: str | None = None
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
                memory belong to it. A warning says if it is another one.
            process_group: The processes of `torch.distributed` that share the images; None: all.
            all_processes: True if all processes of the group make this call together. False if
                only this process makes it, and measures all images.

        Returns:
            Metrics by data set, such as `{"imagenet1k/acc1": 0.71}`, the same in all processes.
            They are fractions in [0, 1], and ranks start at 1. Empty if no measurement is due.

        Raises:
            UsageError: For a step that is not a whole number, and with `on_error="raise"` for a
                model, tokenizer or transform that cannot be used.
        """
        from cosmos_eval.models.live import is_sharded

        self.is_best = False
        step = _whole_number("step", step, least=0)
        if not self.is_due(step):
            return {}
        metrics: dict[str, float] = {}
        sha256_by_dataset: dict[str, str] = {}
        with self._warn_of_errors(f"evaluation at step {step} failed"):
            if is_sharded(model) and not all_processes:
                raise types.UsageError("a sharded model needs all processes: all_processes=True")
            processes = _find_processes(process_group, all_processes=all_processes)
            shared_errors = SharedErrors(processes)
            distributed = shared_errors.distributed
            with ExitStack() as stack:
                with shared_errors.block():
                    live_encoder = self._live_encoder(model, tokenizer, transform, distributed)
                    encoder = stack.enter_context(live_encoder)
                    jobs = self._make_jobs(encoder, step, distributed)
                for job in jobs:
                    dataset_names = " + ".join(data.protocol.dataset for data in job.datasets)
                    with self._warn_of_errors(f"{dataset_names} failed at step {step}"):
                        with shared_errors.block():
                            rows = list(_measure_job(encoder, job, step))
                        # All processes have these rows, or none has them.
                        for row in rows:
                            sha256_by_dataset[row.dataset] = json_sha256(row.provenance["hashes"])
                            for metric, value in row.metrics.items():
                                metrics[f"{row.dataset}/{metric}"] = value
            self._note_best(metrics, sha256_by_dataset, step)
        if self._memory.is_full and not self._has_warned_of_limit:
            self._has_warned_of_limit = True
            fault = "memory_gb is too small for all images: some are read in each call"
            warnings.warn(fault, stacklevel=2)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its step and its data, to be stored in a checkpoint."""
        return {
            "best": self.best,
            "best_value": self.best_value,
            "best_step": self.best_step,
            "best_data_sha256": self._best_data_sha256,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the best value and its step from the state of an earlier run.

        Raises UsageError if that run chose its best step by another metric. If it chose none,
        no step is the best yet. If it measured other data, such as another number of images, the
        next call warns of this and forgets its best value.
        """
        if state["best"] not in (None, self.best):
            raise types.UsageError(f"the state has the best {state['best']}, not {self.best}")
        self.best_value = state["best_value"]
        self.best_step = state["best_step"]
        self._best_data_sha256 = state.get("best_data_sha256")  # older versions lack it

    def _find_metric(self, best: str) -> bool:
        """Return whether higher values of the metric `best` are better.

        Raises UsageError if no data set has this metric.
        """
        metrics = {}
        for dataset in self._datasets:
            for metric in task_for(dataset.protocol).metrics:
                if metric.is_ranked:
                    metrics[f"{dataset.protocol.dataset}/{metric.name}"] = metric
        for name, metric in metrics.items():
            if metric.members is None:
                is_best = best == name
            else:  # `acc1_*` stands for `acc1_urban` and others
                is_best = best != name and fnmatchcase(best, name)
            if is_best:
                return metric.higher_is_better
        nearest = types.nearest(best, metrics)
        raise types.UsageError(f"no data set has the metric {best}; nearest: {nearest}")

    def _note_best(
        self, metrics: Mapping[str, float], sha256_by_dataset: Mapping[str, str], step: int
    ) -> None:
        """Record whether the metric `best` has its best value so far.

        Nothing is recorded if its data set could not be measured. Raises UsageError if the results
        of its data set lack the metric.

        Args:
            metrics: The metrics by data set, such as `{"imagenet1k/acc1": 0.71}`.
            sha256_by_dataset: The hashes of the data and the settings of each data set.
            step: The step of the training.
        """
        if self.best is None:
            return
        dataset_name = self.best.rpartition("/")[0]
        if self.best not in metrics:
            if any(name.rpartition("/")[0] == dataset_name for name in metrics):
                nearest = types.nearest(self.best, metrics)
                raise types.UsageError(f"no result has the best {self.best}; nearest: {nearest}")
            return
        value = metrics[self.best]
        data_sha256 = sha256_by_dataset[dataset_name]
        if self._best_data_sha256 not in (None, data_sha256):
            fault = (
                f"{dataset_name} has other data or settings than at the best step "
                f"{self.best_step}, whose value is forgotten"
            )
            # The warning names the line that called this object.
            warnings.warn(fault, stacklevel=3)
            self.best_value = None
        self._best_data_sha256 = data_sha256
        if self.best_value is None:
            self.is_best = True
        elif self._higher_is_better:
            self.is_best = value > self.best_value
        else:
            self.is_best = value < self.best_value
        if self.is_best:
            self.best_value, self.best_step = value, step

    @contextmanager
    def _warn_of_errors(self, title: str) -> Iterator[None]:
        """Make a warning of an error within the context, unless errors are to be raised.

        Args:
            title: The beginning of the warning.
        """
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            reason = str(error).replace("(--debug shows where)", _HINT)
            if not isinstance(error, types.UsageError):
                reason = f"{type(error).__name__}: {error} {_HINT}"
            # The warning names the line that called this object.
            warnings.warn(f"{title}: {reason}", stacklevel=4)

    @contextmanager
    def _live_encoder(
        self, model: Any, tokenizer: Any, transform: Any, distributed: Distributed
    ) -> Iterator[LiveEncoder]:
        """Give the encoder of a model in evaluation mode, and restore the model afterwards.

        The encoder of an earlier call with the same objects is used again. `__call__` explains
        the arguments.
        """
        from torch import nn

        from cosmos_eval.models import live
        from cosmos_eval.models.encoder import Encoder
        from cosmos_eval.models.user import TwoTower

        if not isinstance(model, nn.Module | Encoder):
            class_name = type(model).__name__
            raise types.UsageError(f"model must be a module or an Encoder, not {class_name}")
        modules = live.find_modules(model)
        with live.unchanged(modules):
            for module in modules:
                module.eval()
            weights_sha256: str | None
            if isinstance(model, nn.Module):
                weights_sha256 = live.hash_weights(model, distributed)
            else:
                if isinstance(model, TwoTower):
                    model.refresh_info()
                weights_sha256 = model.info.weights_sha256

            objects = (model, tokenizer, transform)
            placement = live.placement(model)
            encoder = self._find_encoder(objects, placement)
            if encoder is None:
                # An error in one process is raised in all of them, so that none waits for ever.
                made_encoder = distributed.synchronized(
                    live.make_encoder,
                    model,
                    tokenizer,
                    transform,
                    self.name,
                    self._precision,
                    weights_sha256,
                )
                self._warn_of_another_transform(model, transform)
                encoder = live.LiveEncoder(made_encoder, sharded=live.is_sharded(model))
                is_module = isinstance(model, nn.Module)
                input_key = live.input_key(made_encoder, transform) if is_module else None
                self._keep(_KeptEncoder(objects, placement, encoder, input_key))
            encoder.join(distributed)
            encoder.begin(weights_sha256)
            yield encoder

    def _find_encoder(
        self, objects: tuple[Any, Any, Any], placement: tuple[Any, ...]
    ) -> LiveEncoder | None:
        """Return the encoder of an earlier call with the same objects, or None.

        A model that was moved to another device since then, for example, has none.
        """
        for earlier in self._encoders:
            if earlier.placement == placement and all(
                _is_same(a, b) for a, b in zip(earlier.objects, objects, strict=True)
            ):
                return earlier.encoder
        return None

    def _keep(self, new: _KeptEncoder) -> None:
        """Keep an encoder, and forget the oldest one if there are too many.

        An encoder takes the transform of another one that makes the same pixels, so that those in
        memory are found. The pixels that no encoder uses any more are dropped.
        """
        for earlier in self._encoders:
            if new.input_key is not None and earlier.input_key == new.input_key:
                new.encoder.transform = earlier.encoder.transform
        self._encoders.append(new)
        if len(self._encoders) > _MOST_ENCODERS:
            oldest_transform = self._encoders.pop(0).encoder.transform
            transforms = [remaining.encoder.transform for remaining in self._encoders]
            if all(transform != oldest_transform for transform in transforms):
                self._memory.drop(oldest_transform)

    def _warn_of_another_transform(self, model: Any, transform: Any) -> None:
        """Warn if an earlier call had the same model and another transform."""
        for earlier in self._encoders:
            earlier_model, _, earlier_transform = earlier.objects
            if earlier_model is model and not _is_same(earlier_transform, transform):
                fault = (
                    "transform= is not the object of the last call, so all images are read again: "
                    "make it once, before the loop"
                )
                # The warning names the line that called this object.
                warnings.warn(fault, stacklevel=6)
                return

    def _make_jobs(
        self, encoder: LiveEncoder, step: int, distributed: Distributed
    ) -> list[plans.Job]:
        """Return the jobs that measure an encoder, whose name is set to the name of the step.

        A job has one data set, or several that are measured in one pass over their images.
        """
        name = f"{self.name}-step{step}"
        encoder.info = encoder.info._replace(spec=name, name=None)
        spec = types.ModelSpec(text=name, kind="python", name=name)
        options = replace(
            self._plan.options,
            distributed=replace(distributed, gather=encoder.gather),
            precision=encoder.info.precision,
        )
        plan = replace(self._plan, specs=[spec], options=options)
        return plans.jobs_of(plan, self._datasets, output=self.output)


def _measure_job(encoder: LiveEncoder, job: plans.Job, step: int) -> Iterator[ResultRow]:
    """Yield the result of each data set of a job. It is stored if the job has an output folder."""
    model = LoadedModel(encoder, job.spec, job.options, step=step, facts=encoder.facts)
    for result in measure(model, job):
        assert result.row is not None  # an error would have been raised
        yield result.row
    encoder.facts = model.facts


class _KeptEncoder(NamedTuple):
    """The encoder of a model, and the objects that it was made of."""

    # The model, the tokenizer and the transform.
    objects: tuple[Any, Any, Any]
    # Where the weights of the model are, see `live.placement`.
    placement: tuple[Any, ...]
    encoder: LiveEncoder
    # Encoders with equal keys make the same pixels. None: only this encoder makes its pixels.
    input_key: Hashable | None


def _require(is_met: bool, fault: str) -> None:
    """Raise UsageError with a fault unless a condition is met."""
    if not is_met:
        raise types.UsageError(fault)


def _whole_number(argument: str, value: Any, *, least: int) -> int:
    """Return the value of an argument as an int: also a number of numpy, or a tensor with one.

    Raises UsageError if it is not a whole number of at least `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    fault = f"{argument} must be a whole number, {least} or more, not {value!r}"
    _require(number >= least, fault)
    return number


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two objects are the same, as `model.tokenize` and `model.tokenize` are."""
    return a is b or (inspect.ismethod(a) and a == b)


def _find_processes(process_group: Any, *, all_processes: bool) -> Distributed:
    """Return the processes that share the images: the processes of a group, or only this one.

    Args:
        process_group: A group of `torch.distributed`; None: the group of all processes.
        all_processes: False if only this process measures.
    """
    import torch.distributed as dist

    if not all_processes or not (dist.is_available() and dist.is_initialized()):
        return SINGLE_PROCESS
    gather = partial(gather_objects, group=process_group)
    return Distributed(dist.get_rank(process_group), dist.get_world_size(process_group), gather)
