"""Images of classification results. Imports no torch."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from cosmos_eval.data.class_names import ClassData
from cosmos_eval.data.classification import open_data, sample_list_hash
from cosmos_eval.report.content import Sampled
from cosmos_eval.report.gallery.pictures import Candidate
from cosmos_eval.report.gallery.samples import judge_classes, sample_candidates
from cosmos_eval.report.gallery.source import Group, Source
from cosmos_eval.tasks.classification import CLASSES, LABELS
from cosmos_eval.types import RunOptions


class ClassificationSource(Source):
    """Images of all results of a group."""

    def __init__(self, group: Group, options: RunOptions) -> None:
        super().__init__()
        self._protocol: Any = group.protocol
        self._results = self.open_results(group, options, open_data, _is_of)

    def candidates(self) -> Iterator[Candidate]:
        """Return the chosen images of all results."""
        return sample_candidates(self._results, partial(judge_classes, self._protocol))


def _is_of(data: ClassData, result: Sampled) -> bool:
    return (
        sample_list_hash(data) == result.row.provenance["hashes"].get("sample_list")
        and data.labels.tolist() == result.samples[LABELS].tolist()
        and list(data.classes) == result.samples[CLASSES].tolist()
    )
