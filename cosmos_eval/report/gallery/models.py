"""Models that are on this machine, asked for what is not stored. Imports torch to load one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_core.utils.distributed import own_device
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.report.gallery.parts import MAPS, Answers, Key, Model, Need
from cosmos_eval.report.gallery.results import listed
from cosmos_eval.runner.run import Watch
from cosmos_eval.types import ModelSpec, OnProgress, Progress, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

_REMEDY = "; `cosmos-eval run --save-predictions DIR` keeps label maps for --predictions DIR"


class Answered(NamedTuple):
    """What models answered, and a line for each thing that they could not."""

    answers: Answers
    notes: Sequence[str]


def ask(needs: Iterable[Need], device: str, watch: Watch) -> Answered:
    """Load every model once, one after the other, and ask it for all that is needed of it.

    Models are not fetched: what is not on this machine is not asked, and noted.
    """
    by_model: dict[Model, list[Need]] = {}
    for need in needs:
        by_model.setdefault(need.model, []).append(need)
    answers: dict[Key, Any] = {}
    refusals: list[tuple[Need, str]] = []
    for model, own in by_model.items():
        watch(model.spec, Progress("load", 0, 1))
        try:
            encoder = _load(model, device)
        except UsageError as error:
            refusals += [(need, str(error)) for need in own]
            continue
        watch(model.spec, Progress("load", 1, 1))
        for need in own:
            progress = _warnings_only(partial(watch, f"{need.label} on {need.where}"))
            try:
                answers[need.key] = need.answer(encoder, progress)
            except UsageError as error:
                refusals.append((need, str(error)))
    return Answered(answers, _lines(refusals))


def _warnings_only(progress: OnProgress) -> OnProgress:
    """Without the notes of a measurement that is none, such as how much was embedded already."""

    def told(step: Progress) -> None:
        note = step.note if step.note.startswith("warning: ") else ""
        progress(step._replace(note=note))

    return told


def _load(model: Model, device: str) -> Encoder:
    """The model with the weights that were measured. Raises UsageError where it is not here."""
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.hub import offline, was_not_fetched

    spec = _spec(model)
    try:
        with offline():
            encoder = load_encoder(spec, device=own_device(device), precision=model.precision)
    except UsageError as error:
        if was_not_fetched(error):
            raise UsageError("its weights are not on this machine") from error
        raise
    info = encoder.info
    if (info.weights_sha256, info.random) != (model.weights_sha256, model.random):
        raise UsageError("its weights are not those that were measured any more")
    return encoder


def _spec(model: Model) -> ModelSpec:
    """As it was named, with the architecture that was measured where files do not state theirs."""
    spec = parse_model_spec(model.spec)
    if model.weights == "student":
        spec = replace(spec, weights="student")
    if spec.kind == "cosmos" and spec.arch is None:
        return replace(spec, arch=model.architecture)
    return spec


def _lines(refusals: Sequence[tuple[Need, str]]) -> list[str]:
    """What is not shown and why, a line for all models of which the same is to be said."""
    missing: dict[tuple[str, str], dict[str, list[str]]] = {}
    for need, why in refusals:
        # What names come near to one that is gone is of no help here.
        own = missing.setdefault((need.label, why.partition("; nearest")[0]), {})
        own.setdefault(need.kind, []).append(need.where)
    labels: dict[tuple[str, str], list[str]] = {}
    for (label, why), kinds in missing.items():
        said = [f"no {kind} on {listed([*dict.fromkeys(kinds[kind])])}" for kind in kinds]
        remedy = _REMEDY if MAPS in kinds else ""
        labels.setdefault((", ".join(said), f"{why}{remedy}"), []).append(label)
    return [f"{listed(own)}: {said}: {why}" for (said, why), own in labels.items()]
