"""Models on this machine that compute what results do not store. Imports torch to load one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_core.utils.distributed import own_device
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.results.record import ResultRow
from cosmos_eval.runner.run import Watch
from cosmos_eval.types import OnProgress, Progress, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

MAPS = "label maps"
"""The kind of request whose outputs runs can save."""
_REMEDY = "; `cosmos-eval run --save-predictions DIR` keeps label maps for --predictions DIR"

Key = tuple[str, str, str]
"""Kind, data set and model of a request."""

Outputs = Mapping[Key, Any]
"""The outputs of models, without those that could not be computed."""


class Request(NamedTuple):
    """A computation by the model of a result, called `label`: of `kind`, on the data set `where`.

    `run` raises UsageError where the model cannot compute it.
    """

    row: ResultRow
    label: str
    kind: str
    where: str
    run: Callable[[Encoder, OnProgress], Any]

    @property
    def key(self) -> Key:
        """The key of its output."""
        return self.kind, self.where, self.label


def run_requests(
    requests: Iterable[Request], device: str, watch: Watch
) -> tuple[Outputs, list[str]]:
    """Load every model once, one after the other, and run all requests for it.

    Returns outputs, and one line for each that could not be computed. Models are not fetched.
    """
    by_model: dict[Sequence[Any], list[Request]] = {}
    for request in requests:
        by_model.setdefault(_identity(request.row), []).append(request)
    outputs: dict[Key, Any] = {}
    refusals: list[tuple[Request, str]] = []
    for own in by_model.values():
        row = own[0].row
        watch(row.model["spec"], Progress("load", 0, 1))
        try:
            encoder = _load(row, device)
        except UsageError as error:
            refusals += [(request, str(error)) for request in own]
            continue
        watch(row.model["spec"], Progress("load", 1, 1))
        for request in own:
            progress = _warnings_only(partial(watch, f"{request.label} on {request.where}"))
            try:
                outputs[request.key] = request.run(encoder, progress)
            except UsageError as error:
                refusals.append((request, str(error)))
    return outputs, _lines(refusals)


def _warnings_only(progress: OnProgress) -> OnProgress:
    """Drop the notes of a measurement, such as how much was cached, but its warnings."""

    def report(step: Progress) -> None:
        note = step.note if step.note.startswith("warning: ") else ""
        progress(step._replace(note=note))

    return report


def _identity(row: ResultRow) -> Sequence[Any]:
    """Return what has to be loaded to repeat a result."""
    names = ("spec", "architecture", "weights", "weights_sha256", "random")
    return *(row.model[name] for name in names), row.provenance["precision"]


def _load(row: ResultRow, device: str) -> Encoder:
    """Load a model with the weights that were measured. Raises UsageError without them."""
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.hub import offline, was_not_fetched

    model, precision = row.model, row.provenance["precision"]
    spec = parse_model_spec(model["spec"])
    if model["weights"] == "student":
        spec = replace(spec, weights="student")
    if spec.kind == "cosmos" and spec.arch is None:
        # For files that do not state their architecture.
        spec = replace(spec, arch=model["architecture"])
    try:
        with offline():
            encoder = load_encoder(spec, device=own_device(device), precision=precision)
    except UsageError as error:
        if was_not_fetched(error):
            raise UsageError("its weights are not on this machine") from error
        raise
    info = encoder.info
    if (info.weights_sha256, info.random) != (model["weights_sha256"], model["random"]):
        raise UsageError("its weights are not those that were measured any more")
    return encoder


def _lines(refusals: Sequence[tuple[Request, str]]) -> list[str]:
    """State what is not shown and why, in one line for all models with the same reason."""
    missing: dict[tuple[str, str], dict[str, list[str]]] = {}
    for request, why in refusals:
        # The nearest names to one that is gone are of no help here.
        own = missing.setdefault((request.label, why.partition("; nearest")[0]), {})
        own.setdefault(request.kind, []).append(request.where)
    labels: dict[tuple[str, str], list[str]] = {}
    for (label, why), kinds in missing.items():
        lost = [f"no {kind} on {listed([*dict.fromkeys(kinds[kind])])}" for kind in kinds]
        remedy = _REMEDY if MAPS in kinds else ""
        labels.setdefault((", ".join(lost), f"{why}{remedy}"), []).append(label)
    return [f"{listed(own)}: {lost}: {why}" for (lost, why), own in labels.items()]


def listed(names: Sequence[str]) -> str:
    """Name a few, and how many more there are."""
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
