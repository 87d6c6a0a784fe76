"""Images of a classification result that the model took for another class. Imports no torch."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from cosmos_eval.data.class_names import ClassData, class_names
from cosmos_eval.data.classification import open_data, sample_list_hash
from cosmos_eval.report.content import Sampled
from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import ClassificationExample
from cosmos_eval.report.gallery.source import Group, Source
from cosmos_eval.stats.choices import confusion_pairs
from cosmos_eval.tasks.classification import CLASSES, LABELS, TOP5
from cosmos_eval.types import RunOptions, Samples

_WRONG = 5  # at most, of a result


class ClassificationSource(Source):
    """Wrong images of every result of a group, of its most frequent mistakes."""

    def __init__(self, group: Group, options: RunOptions) -> None:
        super().__init__()
        self._protocol: Any = group.protocol
        self._results = self.open_results(group, options, open_data, _is_of)

    def candidates(self) -> Iterator[Candidate]:
        """Return the chosen images of every result."""
        for result, data in self._results:
            named = class_names(self._protocol, data)
            counts = Counter(named)
            # Classes of one name also have the name that the data give them.
            names = [
                name if counts[name] == 1 else f"{name} ({own})"
                for name, own in zip(named, data.classes, strict=True)
            ]
            for turn, index in enumerate(wrong_images(result.samples)):
                yield Candidate(turn, partial(_draw, result, data, names, index))


def _is_of(data: ClassData, result: Sampled) -> bool:
    return (
        sample_list_hash(data) == result.row.provenance["hashes"].get("sample_list")
        and data.labels.tolist() == result.samples[LABELS].tolist()
        and list(data.classes) == result.samples[CLASSES].tolist()
    )


def wrong_images(samples: Samples) -> list[int]:
    """Return indices of wrong images: one of each of the most frequent mistakes, then a second."""
    labels, predicted = samples[LABELS], samples[TOP5][:, 0]
    mistakes = [
        np.flatnonzero((labels == pair.true) & (predicted == pair.predicted)).tolist()
        for pair in confusion_pairs(labels, predicted, _WRONG)
    ]
    in_turn = chain.from_iterable(zip_longest(*mistakes))
    return [index for index in in_turn if index is not None][:_WRONG]


def _draw(
    result: Sampled, data: ClassData, names: list[str], index: int, canvas: Canvas
) -> ClassificationExample:
    return ClassificationExample(
        model=result.model,
        dataset=result.row.dataset,
        protocol=result.row.protocol,
        image=canvas.thumbnail(data.images[index]),
        label=names[data.labels[index]],
        predicted=[
            names[class_index] for class_index in result.samples[TOP5][index] if class_index >= 0
        ],
    )
