"""Images that a model took for another class, of its most frequent mistakes. Imports no torch."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np

from cosmos_eval.data.class_names import ClassData, class_names
from cosmos_eval.data.classification import open_data, sample_list_hash
from cosmos_eval.report.gallery.drafts import Draft
from cosmos_eval.report.gallery.parts import Answers, Drafted, Opened, Part, opened
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.records import ClassificationExample
from cosmos_eval.report.gallery.results import Group, Shown
from cosmos_eval.stats.classification import confusion_pairs
from cosmos_eval.tasks.classification import CLASSES, LABELS, TOP5
from cosmos_eval.types import ClassificationProtocol, RunOptions, Samples

_WRONG = 5  # at most, of a result


def of_classification(group: Group, protocol: ClassificationProtocol, options: RunOptions) -> Part:
    """The part of a group of classification results by a protocol."""
    found = opened(group, options, open_data, _is_of)
    return Part(found.notes, (), partial(_drafted, protocol, found))


def _is_of(data: ClassData, shown: Shown) -> bool:
    return (
        sample_list_hash(data) == shown.row.provenance["hashes"].get("sample_list")
        and data.labels.tolist() == shown.samples[LABELS].tolist()
        and list(data.classes) == shown.samples[CLASSES].tolist()
    )


def chosen(samples: Samples) -> list[int]:
    """Numbers of wrong images: one of each of the most frequent mistakes, then a second..."""
    labels, predicted = samples[LABELS], samples[TOP5][:, 0]
    mistakes = [
        np.flatnonzero((labels == pair.true) & (predicted == pair.predicted)).tolist()
        for pair in confusion_pairs(labels, predicted, _WRONG)
    ]
    turns = (some[turn] for turn in range(_WRONG) for some in mistakes if turn < len(some))
    return [number for number, _ in zip(turns, range(_WRONG), strict=False)]


def _drafted(protocol: ClassificationProtocol, found: Opened, answers: Answers) -> Drafted:
    drafts = []
    for shown, data in found.results:
        names = _names(protocol, data)
        for place, number in enumerate(chosen(shown.samples)):
            drafts.append(Draft(place, partial(_draw, shown, data, names, number)))
    return Drafted(drafts, ())


def _names(protocol: ClassificationProtocol, data: ClassData) -> list[str]:
    """What prompts call the classes; those that share a name also as the data call them."""
    names = class_names(protocol, data)
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({own})"
        for name, own in zip(names, data.classes, strict=True)
    ]


def _draw(
    shown: Shown, data: ClassData, names: list[str], number: int, canvas: Canvas
) -> ClassificationExample:
    return ClassificationExample(
        model=shown.label,
        dataset=shown.row.dataset,
        protocol=shown.row.protocol,
        image=canvas.thumbnail(data.images[number]),
        label=names[data.labels[number]],
        predicted=[names[place] for place in shown.samples[TOP5][number]],
    )
