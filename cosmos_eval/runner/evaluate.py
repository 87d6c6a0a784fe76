"""`cosmos_eval.evaluate`: measure one model on one data set from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cosmos_eval import types
from cosmos_eval.data.readers import path_of
from cosmos_eval.data.wordings import Declared
from cosmos_eval.models.encoder import Encoder, require_encoder
from cosmos_eval.models.specs import with_labels
from cosmos_eval.protocols import find_known
from cosmos_eval.protocols.languages import language_sets
from cosmos_eval.results.record import ResultRow
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.bars import bars
from cosmos_eval.runner.deciding import make_deciding_run
from cosmos_eval.runner.options import make_run_options
from cosmos_eval.runner.run import LoadedModel, measure, run_all


def evaluate(
    model: str | Encoder,
    dataset: str | os.PathLike[str] | Mapping[str, Any] | types.Protocol,
    *,
    name: str | None = None,
    protocol: str | None = None,
    data_root: str | None = None,
    download: bool = False,
    stream: bool = False,
    arch: str | None = None,
    weights: types.Weights = types.ModelSpec.weights,
    attention: types.Attention | None = None,
    auxiliary: str | None = None,
    device: str = types.RunOptions.device,
    precision: types.Precision = types.RunOptions.precision,
    batch_size: int = types.RunOptions.batch_size,
    workers: int = types.RunOptions.workers,
    limit: int | None = None,
    allow_partial: bool = False,
    against: str | Path | None = None,
    until: Literal["decided"] | None = None,
    margin: float | None = None,
    cache: bool = True,
    wordings: Declared | None = None,
    output: str | Path | None = None,
    progress: bool = False,
) -> ResultRow:
    """Measure a model on a data set, and return the result.

    Args:
        model: A model as on the command line, such as `openclip:ViT-B-32/openai`, or an encoder,
            ready on its device. An encoder is measured in evaluation mode, and every submodule then
            gets its former mode back. Its embeddings are not cached, since its code is unknown
            here, and `arch`, `weights`, `auxiliary`, `device` and `precision` must not be given.
        dataset: The name of a known data set, a YAML file, a dict with the keys of such a file,
            whose paths are relative to the current folder, or a protocol.
        name: The name of the model in tables; None: the specification.
        protocol: The protocol of a known data set; None: its usual one.
        data_root: The folder of downloaded data sets.
        download: True if a webdataset, or a missing torchvision data set below `data_root`, is
            fetched.
        stream: True if a webdataset is measured while it arrives. It is not kept unless `download`
            is set.
        arch: The OpenCLIP architecture of a checkpoint that does not state its own.
        weights: The weights that are measured of a checkpoint with two sets.
        attention: The form of attention of the last block; None: the protocol's own.
        auxiliary: The encoder that guides attention `proxy`.
        device: `cpu`, `cuda` or `cuda:N`; `auto`: a GPU if there is one.
        precision: `fp32`, `bf16`, `fp16` or `amp`.
        batch_size: How many images are encoded at once.
        workers: How many threads read images.
        limit: How many samples are measured, from the first one on; None: all.
        allow_partial: True if a known data set that is not complete is measured on the samples on
            the disk.
        against: The stored result to compare with: a file, a folder with the results of one model,
            or the name of a model in `output`.
        until: "decided" to stop as soon as the model is known to be better or worse than `against`,
            or the same. The answer is `row.provenance["stopped"]`, which is missing if all samples
            were measured.
        margin: The percentage points within which models are the same.
        cache: True if embeddings are kept in the folder that `cosmos-eval cache info` shows.
        wordings: With which other wordings the data set is measured too: how many, a YAML file
            (docs/wording.md) or a dict with its content. Their results are stored in `output`,
            where `compare(output, over="wording")` reads them.
        output: The folder that the result is stored in, where it replaces a former result of the
            same model and data set; None: it is not stored.
        progress: True if a bar is shown, in terminals and notebooks.

    Returns:
        The result with the protocol's own wording. Metrics are fractions in [0, 1], and ranks
        start at 1.

    Raises:
        UsageError: For unknown names, missing or inconsistent data, and objects that are not
            encoders.

    Example:
        `evaluate("scenes-clip", "scenes-cls").metrics["acc1"]`
    """
    _require_single_result(dataset, wordings, output)
    model_options = types.ModelOptions(
        attention=attention, auxiliary=auxiliary, device=device, precision=precision
    )
    is_compared = against is not None or until is not None or margin is not None
    models: list[str] = []
    names: list[str | None] = []
    if isinstance(model, str):
        models, names = [model], [name]
    else:
        # An encoder takes the place of the models of the plan.
        _refuse_arguments_of_named_models(arch, weights, model_options, is_compared)

    folder = None if output is None else path_of(output, "output")
    options = make_run_options(
        types.DataOptions(
            data_root=data_root,
            download=download,
            stream=stream,
            limit=limit,
            allow_partial=allow_partial,
        ),
        model_options,
        batch_size=batch_size,
        workers=workers,
        use_cache=cache and isinstance(model, str),
        output=folder,
    )
    plans.require_outputs(options, folder)
    plan = plans.make_plan(
        datasets=[dataset],
        protocol_names=[protocol] if protocol else [],
        models=models,
        names=names,
        arch=arch,
        weights=weights,
        wordings=wordings,
        options=options,
    )

    deciding_run = None
    if is_compared:
        former_result = None if against is None else str(against)
        deciding_run = make_deciding_run(
            plan, folder, against=former_result, until=until, margin=margin
        )
    with bars(shown=progress) as show_progress:
        if deciding_run is not None:
            (result,) = deciding_run.run(show_progress)
        elif isinstance(model, str):
            result, *_ = run_all(plan, show_progress, folder)
        else:
            result = _measure_encoder(model, plan, name, show_progress, folder)
    assert result.row is not None  # an error would have been raised
    return result.row


def _require_single_result(
    dataset: str | os.PathLike[str] | Mapping[str, Any] | types.Protocol,
    wordings: Declared | None,
    output: str | Path | None,
) -> None:
    """Raise UsageError if there would be several results, and not all can be returned or stored.

    Args:
        dataset: The data set. The name of a data set in several languages is refused.
        wordings: With which other wordings the data set is measured too. They need an `output`.
        output: The folder that results are stored in.
    """
    if isinstance(dataset, str) and dataset in language_sets():
        find_known(dataset)  # raises UsageError: there would be a result for each language
    if wordings is not None and output is None:
        raise types.UsageError("wordings needs output: the folder where their results are stored")


def _refuse_arguments_of_named_models(
    arch: str | None, weights: types.Weights, model_options: types.ModelOptions, is_compared: bool
) -> None:
    """Raise UsageError if an argument of `evaluate` is given that an encoder cannot have.

    Args:
        arch: The OpenCLIP architecture of a checkpoint.
        weights: The weights that are measured of a checkpoint with two sets.
        model_options: How the model is run. Only the form of attention may be given.
        is_compared: True if a stored result, a margin or a moment to stop is given.
    """
    has_default_options = (
        arch is None
        and weights == types.ModelSpec.weights
        and model_options == types.ModelOptions(attention=model_options.attention)
    )
    if not has_default_options:
        raise types.UsageError("arch, weights, auxiliary, device, precision go with a named model")
    if is_compared:
        raise types.UsageError("against, until and margin go with a named model")


def _measure_encoder(
    encoder: Encoder,
    plan: plans.Plan,
    label: str | None,
    show_progress: plans.ShowProgress,
    output: Path | None,
) -> plans.Result:
    """Return the result of a user's encoder on the one data set of a plan.

    Args:
        encoder: The model, ready on its device. Its submodules are in evaluation mode meanwhile.
        plan: It has one data set, also with other wordings. Its models are ignored.
        label: The name of the model in tables; None: the name of the encoder's class.
        show_progress: Shows how far the measurement is.
        output: The folder of the result; None: it is not stored.
    """
    class_name = type(encoder).__name__
    spec = types.ModelSpec(text=class_name, kind="python", name=class_name)
    (labelled_spec,) = with_labels([spec], [label])
    datasets = plans.open_datasets(plan, show_progress)
    from cosmos_eval.models.live import evaluation_mode  # which imports torch

    with evaluation_mode(encoder):
        require_encoder(encoder, class_name)
        encoder_plan = replace(plan, specs=[labelled_spec])
        (job,) = plans.jobs_of(encoder_plan, datasets, output=output)
        model = LoadedModel(encoder, job.spec, job.options, show_progress)
        # The first result is of the protocol's own wording, which other wordings follow.
        result, *_ = measure(model, job, show_progress)
    return result
