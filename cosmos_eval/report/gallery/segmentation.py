"""Images with their true label maps and those that models predicted, the same images for all.

A predicted map is shown only where it gives the pixel counts that were measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cosmos_eval.report.gallery.drafts import Draft
from cosmos_eval.report.gallery.maps import Truth, choose, is_measured, saved_map
from cosmos_eval.report.gallery.overlay import draw
from cosmos_eval.report.gallery.parts import (
    MAPS,
    Answers,
    Drafted,
    Need,
    Pair,
    Part,
    fault,
    model_of,
    other_data,
)
from cosmos_eval.report.gallery.pictures import shrunk
from cosmos_eval.report.gallery.results import Group, Shown, listed
from cosmos_eval.results.labels import predictions_of
from cosmos_eval.tasks.label_maps import Label, LabelMaps, open_data, read_label
from cosmos_eval.tasks.segmentation import (
    prediction_file,
    predictions,
    predictions_folder,
    read_image,
)
from cosmos_eval.tasks.segmentation.samples import CLASSES, NAME
from cosmos_eval.types import OnProgress, RunOptions, SegmentationProtocol, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

# Of an image's pixels.
_EASILY_SEEN = 0.01
_PROMPT = "a photo of a {}."

Maps = dict[tuple[str, int], Label]
"""Label maps by the model's label and the image's number."""


class Chosen(NamedTuple):
    """Images of a data set, `name` for notes, that are shown, and the results they are shown of."""

    protocol: SegmentationProtocol
    name: str
    results: Sequence[Shown]
    truths: Sequence[Truth]


class Looked(NamedTuple):
    """Label maps that are those that were measured, and lines on others."""

    maps: Maps
    notes: list[str]


def of_segmentation(
    group: Group, protocol: SegmentationProtocol, options: RunOptions, saved_in: Path | None
) -> Part:
    """The part of a group of segmentation results by a protocol."""
    try:
        data = open_data(protocol, replace(options, limit=None, allow_partial=True))
    except UsageError as error:
        return Part([fault(group, error)])
    results = [shown for shown in group.results if _is_of(data, protocol, shown)]
    truths, faults = _truths(results, data, protocol)
    chosen = Chosen(protocol, group.name, results, truths)
    own = {shown.label for shown in results}
    foreign = [shown.label for shown in group.results if shown.label not in own]
    saved = _saved(chosen, saved_in)
    notes = [*other_data(group, foreign), *faults, *saved.notes]
    needs = list(_needs(chosen, saved.maps, options))
    return Part(notes, needs, partial(_drafted, chosen, saved.maps), [*_pairs(chosen)])


def _pairs(chosen: Chosen) -> Iterator[Pair]:
    """Every image with a prompt of its smallest class that is easily seen."""
    protocol = chosen.protocol
    for truth in chosen.truths:
        pixels = np.bincount(truth.label.ravel(), minlength=256)[: len(protocol.class_names)]
        seen = np.flatnonzero(pixels >= _EASILY_SEEN * truth.label.size)
        if len(seen):
            name = protocol.queries[seen[np.argmin(pixels[seen])]][0]
            image = partial(read_image, truth.sample)
            yield Pair(protocol.dataset, truth.sample.name, image, _PROMPT.format(name))


def _is_of(data: LabelMaps, protocol: SegmentationProtocol, shown: Shown) -> bool:
    names = shown.samples[NAME].tolist()
    same_images = names == [sample.name for sample in data.samples[: len(names)]]
    return same_images and shown.samples[CLASSES].tolist() == list(protocol.class_names)


class _Truths(NamedTuple):
    """True label maps, and a line for each that cannot be used."""

    truths: list[Truth]
    faults: list[str]


def _truths(results: Sequence[Shown], data: LabelMaps, protocol: SegmentationProtocol) -> _Truths:
    found = _Truths([], [])
    for number in choose([shown.samples for shown in results]) if results else ():
        sample = data.samples[number]
        try:
            found.truths.append(Truth(number, sample, read_label(sample, protocol)))
        except UsageError as error:
            found.faults.append(str(error))
    return found


def _saved(chosen: Chosen, folder: Path | None) -> Looked:
    """The label maps that a run has kept."""
    maps: Maps = {}
    notes: list[str] = []
    for shown in chosen.results if folder is not None else ():
        own = predictions_of(Path(folder or ""), shown.row.model["spec"])
        own = predictions_folder(own, chosen.protocol)
        found: dict[int, Label] = {}
        for truth in chosen.truths:
            try:
                one = saved_map(prediction_file(own, truth.sample.name))
            except UsageError as error:
                notes.append(str(error))
                continue
            if one is not None:
                found[truth.number] = one
        good = _measured(found, shown, chosen)
        if len(good) < len(found):
            notes.append(f"{own}: not the label maps that {shown.label} was measured with")
        maps.update({(shown.label, number): one for number, one in good.items()})
    return Looked(maps, notes)


def _measured(found: dict[int, Label], shown: Shown, chosen: Chosen) -> dict[int, Label]:
    """Those of a result's label maps that are what was measured, by number, as small as drawn."""
    return {
        truth.number: shrunk(found[truth.number])
        for truth in chosen.truths
        if truth.number in found and is_measured(found[truth.number], truth, shown, chosen.protocol)
    }


def _needs(chosen: Chosen, saved: Maps, options: RunOptions) -> Iterator[Need]:
    """Every result's label maps that are not saved."""
    for shown in chosen.results:
        missing = [t for t in chosen.truths if (shown.label, t.number) not in saved]
        if missing:
            yield Need(
                model=model_of(shown.row),
                label=shown.label,
                kind=MAPS,
                where=chosen.name,
                answer=partial(
                    _predicted,
                    chosen.protocol,
                    missing,
                    replace(options, attention=shown.row.provenance["attention"]),
                ),
            )


def _predicted(
    protocol: SegmentationProtocol,
    truths: Sequence[Truth],
    options: RunOptions,
    encoder: Encoder,
    progress: OnProgress,
) -> dict[int, Label]:
    """Label maps by the images' numbers."""
    samples = [truth.sample for truth in truths]
    maps = predictions(encoder, protocol, samples, options)
    return {truth.number: classes for truth, classes in zip(truths, maps, strict=True)}


def _drafted(chosen: Chosen, saved: Maps, answers: Answers) -> Drafted:
    maps, differing = dict(saved), []
    for shown in chosen.results:
        found = answers.get((MAPS, chosen.name, shown.label), {})
        good = _measured(found, shown, chosen)
        if len(good) < len(found):
            differing.append(shown.label)
        maps.update({(shown.label, number): one for number, one in good.items()})
    notes = []
    if differing:
        notes.append(
            f"{chosen.name}: label maps of {listed(differing)} are not shown, as they come "
            "out otherwise than measured"
        )
    drafts = [
        Draft(number, partial(draw, chosen.protocol, truth, _of_image(truth, chosen, maps)))
        for number, truth in enumerate(chosen.truths)
    ]
    return Drafted(drafts, notes)


def _of_image(truth: Truth, chosen: Chosen, maps: Maps) -> dict[str, Label]:
    """An image's label maps by the model's label."""
    labels = (shown.label for shown in chosen.results)
    return {label: maps[label, truth.number] for label in labels if (label, truth.number) in maps}
