"""Choose images of classification results. Imports no torch."""

from collections.abc import Sequence
from typing import Any

from cosmos_eval.data.class_names import ClassData
from cosmos_eval.data.classification import open_data, sample_list_hash
from cosmos_eval.reporting.content import SampledResult
from cosmos_eval.reporting.gallery.pictures import Candidate
from cosmos_eval.reporting.gallery.samples import ClassJudgement, Judgement
from cosmos_eval.reporting.gallery.source import ResultGroup, ResultSource
from cosmos_eval.tasks.classification import CLASSES, LABELS
from cosmos_eval.types import RunOptions, Samples


class ClassificationSource(ResultSource):
    """Images of a classification set with the outcomes of all results of a group."""

    def __init__(self, group: ResultGroup, options: RunOptions) -> None:
        """Open the images that the results of the group were measured on.

        Args:
            group: The results on a data set by one protocol.
            options: How data are opened and models are run.
        """
        super().__init__(group, options)
        self._opened_results = self.open_results()

    def candidates(self) -> list[Candidate]:
        """Return the chosen images, each with the outcomes of all models."""
        return self.sample_candidates(self._opened_results)

    def open_data(self, options: RunOptions) -> ClassData:
        """Open the images and labels of the data set."""
        return open_data(self.protocol, options)

    def has_measured_names(self, result: SampledResult, data: ClassData) -> bool:
        """Return whether a result has the same images, labels and classes as the data."""
        recorded_hash = result.row.provenance["hashes"].get("sample_list")
        return (
            sample_list_hash(data) == recorded_hash
            and data.labels.tolist() == result.samples[LABELS].tolist()
            and list(data.classes) == result.samples[CLASSES].tolist()
        )

    def judge(self, data: Any, samples: Sequence[Samples]) -> list[Judgement]:
        """Return which models are right on which images.

        `data` are the opened data, and `samples` the stored arrays of each model's result.
        """
        return [ClassJudgement(self.protocol, data, samples)]
