"""`cosmos-eval diagnose`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from cosmos_core.utils.distributed import own_device
from cosmos_eval.cli import options
from cosmos_eval.cli.completion import dataset_names, model_names
from cosmos_eval.cli.options import Text, option
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records
from cosmos_eval.results.text import percent
from cosmos_eval.types import DataOptions, ModelOptions, ModelSpec, RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.runner.diagnosis.diagnose import Diagnosis, Explanation

_N_PRINTED = 8  # the number of explanations in the table; the JSON document has all
_N_TIED_DESCRIBED = 5  # the number of tied explanations whose faults are described


def diagnose(
    model: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="A model, see `cosmos-eval list models`.",
            autocompletion=model_names,
        ),
    ],
    dataset: Annotated[
        str,
        Argument(
            metavar="DATASET", help="A known data set or YAML file.", autocompletion=dataset_names
        ),
    ],
    known: Annotated[
        str,
        option("VALUE|FILE", "The number from elsewhere, in percent; or a result with samples."),
    ],
    metric: Annotated[
        Text, option("NAME", "Its metric. Default: acc1, or image_to_text_R@1.")
    ] = None,
    protocol: Annotated[Text, option("NAME", "Its protocol. Default: the usual one.")] = None,
    samples: Annotated[
        int, option("N", "Images that are run again under each fault.", min=30)
    ] = 300,
    format: options.Format = "table",
    arch: options.Arch = None,
    weights: options.Weights = ModelSpec.weights,
    data_root: options.DataRoot = None,
    device: options.Device = RunOptions.device,
    precision: options.Precision = RunOptions.precision,
    batch_size: Annotated[
        int, option("N", "Images encoded at once.", options.COMPUTATION, min=1)
    ] = RunOptions.batch_size,
    workers: options.Workers = RunOptions.workers,
) -> None:
    """Name the fault behind a wrong number: here, or where VALUE comes from.

    The model is measured. If VALUE differs by more than rounding and precision, a few hundred
    images are run again under a catalogue of faults, alone and in pairs.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.models.specs import parse_model_spec
    from cosmos_eval.runner.options import make_run_options
    from cosmos_eval.runner.plan import open_dataset, require_data_root
    from cosmos_eval.tasks import find_protocol

    run_options = make_run_options(
        DataOptions(data_root=data_root),
        ModelOptions(device=device, precision=precision),
        batch_size=batch_size,
        workers=workers,
        use_cache=True,
    )
    # All names are checked before anything slow.
    spec = parse_model_spec(model, arch=arch, weights=weights)
    dataset_protocol = find_protocol(dataset, protocol)
    # These modules import torch, which takes a second.
    from cosmos_eval.runner.diagnosis import diagnose as diagnosis
    from cosmos_eval.runner.diagnosis.known import check_known, read_known

    chosen_metric = diagnosis.choose_metric(dataset_protocol.task, metric)
    check_known(known)
    require_data_root(dataset_protocol, run_options)
    opened = open_dataset(dataset_protocol, run_options)
    if getattr(opened.data, "found_samples", None) is not None:
        raise UsageError(f"{dataset_protocol.dataset} is not complete: VALUE is of the whole set")

    known_number = read_known(known, opened.data, dataset_protocol.task, chosen_metric)
    from cosmos_eval.models import load_encoder

    with Progress() as progress:
        encoder = load_encoder(spec, device=own_device(run_options.device), precision=precision)
        result = diagnosis.diagnose(
            encoder,
            opened.protocol,
            opened.data,
            known_number,
            run_options,
            progress.steps_of(f"{spec.called} on {dataset_protocol.dataset}"),
            metric=chosen_metric,
            n_samples=samples,
        )
    dataset_name, protocol_name = dataset_protocol.dataset, dataset_protocol.protocol_name
    if format == "json":
        names = {"model": spec.called, "dataset": dataset_name, "protocol": protocol_name}
        print_json(names | _document(result))
        return
    _print_diagnosis(result, f"{spec.called} on {dataset_name}, protocol {protocol_name}", known)
    print_notes(_notes(result))


def _print_diagnosis(result: Diagnosis, subject: str, known: str) -> None:
    """Print the verdict, what is wrong and what to check, and the explanations.

    Args:
        result: The diagnosis.
        subject: The names of model, data set and protocol.
        known: The known number as it was typed.
    """
    if result.known.hits is not None:  # the path of a result was typed
        known = str(percent(result.known.value, 2))
    for line in _verdict_lines(result, known):
        print_line(line)
    print_line(subject)
    if result.explanations:
        print_records([_record(explanation) for explanation in result.explanations[:_N_PRINTED]])
        print_line(f"something else: {_chance(result.something_else)}")


def _verdict_lines(result: Diagnosis, known: str) -> Iterator[str]:
    """Yield the lines of the verdict. The first one states it, and the others say what to do.

    Args:
        result: The diagnosis.
        known: The known number in percent.
    """
    numbers = (
        f"{result.measured.metric} is {percent(result.measured.value, 2)} here, {known} is known"
    )
    if result.verdict == "agrees":
        yield f"no fault: {numbers}, which rounding and precision explain"
    elif result.verdict == "chance":
        yield f"cannot tell: {numbers}, and guessing gives {percent(result.measured.chance, 2)}"
        yield "no fault is visible in a model that guesses: check its weights first"
    elif result.verdict == "none":
        yield f"none of the catalogue explains it: {numbers}"
    else:
        first = result.explanations[0]
        if result.n_tied == 1:
            yield f"most likely {first.name} ({_chance(first.probability)}): {numbers}"
        else:
            yield f"tied, {result.n_tied} explanations: {numbers}"
        yield from _advice_lines(result)


def _advice_lines(result: Diagnosis) -> Iterator[str]:
    """Yield what each fault of the tied explanations is, what to check, and where to look."""
    tied_explanations = result.explanations[: min(result.n_tied, _N_TIED_DESCRIBED)]
    faults = [fault for explanation in tied_explanations for fault in explanation.faults]
    for fault in dict.fromkeys(faults):  # a fault of several explanations is described once
        yield f"{fault.name}: {fault.wrong}"
        yield f"- to check: {fault.check}"
    if result.known.value < result.measured.value:
        yield "if this result is right, look for it where the known number comes from;"
        yield "if the known number is right, look for its reverse in this model's files"
    else:
        yield "if the known number is right, it was measured so, and this model needs it;"
        yield "if this result is right, look for it where the known number comes from"


def _record(explanation: Explanation) -> dict[str, Any]:
    """Return the row of an explanation in the table: faults, number and probability."""
    low, high = percent(explanation.low), percent(explanation.high)
    return {
        "with": explanation.name,
        "number [95%]": f"{percent(explanation.value)} [{low}, {high}]",
        "probability": _chance(explanation.probability),
    }


def _chance(probability: float) -> str:
    """Return a probability in percent, such as `76%`, or `<1%`."""
    return "<1%" if probability < 0.01 else f"{100 * probability:.0f}%"


def _notes(result: Diagnosis) -> Iterator[str]:
    """Yield notes: what was run, which faults change nothing, and which cannot be applied."""
    if not result.explanations:
        return
    n_samples, n_images = result.measured.n_samples, result.measured.n_images
    yield (
        f"{n_samples} of {n_images} images, {result.n_image_passes} passes over images, "
        f"{result.n_text_passes} over texts, {len(result.explanations)} explanations"
    )
    if result.n_tied > 1 and result.known.hits is None:
        yield "--known FILE, a result with samples, or more --samples tell ties apart"
    if result.known.value < 0.01 < result.measured.value:
        yield "the known number is read in percent: write 74.0 for 0.74"
    if result.without_effect:
        yield f"change nothing here: {', '.join(result.without_effect)}"
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in result.not_applicable.items():
        names_by_reason.setdefault(reason, []).append(name)
    for reason, names in names_by_reason.items():
        yield f"not applicable, since {reason}: {', '.join(names)}"


def _document(result: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as a JSON document, with numbers as fractions."""
    document = asdict(result)
    document["known"] = {"value": result.known.value, "half_width": result.known.half_width}
    document["explanations"] = [
        {
            "faults": [fault.name for fault in explanation.faults],
            "value": explanation.value,
            "low": explanation.low,
            "high": explanation.high,
            "fits": explanation.fits,
            "probability": explanation.probability,
        }
        for explanation in result.explanations
    ]
    return document
