"""From result files to a gallery: choose, ask models, draw what fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cosmos_eval.data.retrieval import open_data
from cosmos_eval.protocols import prepare
from cosmos_eval.protocols.scenes import FAMILY as SCENES
from cosmos_eval.report.gallery.attention import of_attention
from cosmos_eval.report.gallery.classification import of_classification
from cosmos_eval.report.gallery.drafts import Example, fit
from cosmos_eval.report.gallery.models import ask
from cosmos_eval.report.gallery.parts import Pair, Part
from cosmos_eval.report.gallery.records import (
    AttentionExample,
    ClassificationExample,
    Gallery,
    RetrievalExample,
    SegmentationExample,
)
from cosmos_eval.report.gallery.results import Group, grouped
from cosmos_eval.report.gallery.retrieval import of_retrieval, pairs_of
from cosmos_eval.report.gallery.segmentation import of_segmentation
from cosmos_eval.runner.run import Watch, unwatched
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import Progress, RunOptions

BUDGET = 3_000_000
"""Bytes of all pictures. A page that holds them as base64 text is a third larger."""

# Captions of nothing but small things, of which the first sentence names one.
_SMALL_SCENES = "scenes-retrieval-small"

_Kind = TypeVar("_Kind", bound=Example)


def collect(
    results: Sequence[Path],
    options: RunOptions,
    *,
    datasets: Sequence[str] = (),
    predictions: Path | None = None,
    device: str = "auto",
    budget: int = BUDGET,
    watch: Watch = unwatched,
) -> Gallery:
    """Examples with pictures of the results in these files; equal input gives equal bytes.

    Images come from `options.data_root` and the data sets' own places; `datasets` are YAML files
    of users' own. Label maps come from `predictions`, a folder of `--save-predictions`, or else
    from the model where it is on this machine with the weights that were measured; what models
    found and look at, from the model and the embeddings kept in `options.cache`. Nothing is
    fetched. What cannot be shown is a line of the gallery's `notes`. Raises UsageError for files
    that are no results and YAML files that are of no use.
    """
    found = grouped(results, datasets)
    parts = []
    for done, group in enumerate(found.groups):
        watch("pictures", Progress("data sets", done, len(found.groups)))
        parts.append(_part(group, options, predictions))
    parts.append(of_attention(found.groups, _pairs(found.groups, parts, options)))
    answered = ask((need for part in parts for need in part.needs), device, watch)
    drafted = [part.finish(answered.answers) for part in parts]
    drafts = [draft for one in drafted for draft in one.drafts]
    fitted = fit(drafts, budget, options.workers, partial(watch, "pictures"))
    notes = [
        *found.notes,
        *(note for part in parts for note in part.notes),
        *answered.notes,
        *(note for one in drafted for note in one.notes),
        *fitted.notes,
    ]
    return Gallery(
        retrieval=_of_kind(fitted.examples, RetrievalExample),
        classification=_of_kind(fitted.examples, ClassificationExample),
        segmentation=_of_kind(fitted.examples, SegmentationExample),
        attention=_of_kind(fitted.examples, AttentionExample),
        notes=tuple(dict.fromkeys(notes)),
    )


def _part(group: Group, options: RunOptions, predictions: Path | None) -> Part:
    protocol: Any = group.protocol
    if group.task == "cls":
        return of_classification(group, protocol, options)
    if group.task == "seg":
        return of_segmentation(group, protocol, options, predictions)
    return of_retrieval(group, options)


def _pairs(groups: Sequence[Group], parts: Sequence[Part], options: RunOptions) -> list[Pair]:
    """Images and texts to look at: of the embedded scenes, where any result is of them, small
    things; of other sets their captions, or where there are none, prompts of classes."""
    others = [
        (group.task, part.pairs)
        for group, part in zip(groups, parts, strict=True)
        if group.protocol.family != SCENES
    ]
    captions = [pairs for task, pairs in others if task == "retrieval"]
    pairs = [pair for some in captions for pair in some]
    if len(others) < len(groups):
        pairs = [*_of_scenes(options), *pairs]
    return pairs or [pair for _, some in others for pair in some]


def _of_scenes(options: RunOptions) -> Iterator[Pair]:
    protocol: Any = find_protocol(_SMALL_SCENES)
    prepare(protocol)
    for pair in pairs_of(protocol, open_data(protocol, options)):
        yield pair._replace(text=pair.text.partition(". ")[0])


def _of_kind(examples: Sequence[Example], kind: type[_Kind]) -> tuple[_Kind, ...]:
    return tuple(one for one in examples if isinstance(one, kind))
