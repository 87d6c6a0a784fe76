"""A task of your own: is the picture that looks most like a query of the query's class?

What a task is, without what it needs to measure: commands import this for `list` and `--help`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cosmos_eval.tasks import Task
from cosmos_eval.types import Protocol


@dataclass(frozen=True, kw_only=True)
class ImageRetrievalProtocol(Protocol):
    """Pictures to find others by, and pictures to be found, each a folder with one a class.

    The fields are the keys of a YAML file of this kind; `dataset`, `family` and `root`, which every
    protocol has, are filled in.
    """

    queries: str
    gallery: str


TASK = Task(
    protocol=ImageRetrievalProtocol,
    evaluator="image_retrieval.evaluator",
    headlines={"image_to_image_R@1": "image to image R@1"},
    decisive=("image_to_image_R@1",),
    checked="folders of classes, and that every query's class is in the gallery; none is decoded",
    seconds=0.4,
)
