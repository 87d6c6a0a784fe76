"""Faults of labels and of the pairs of images and captions. They need no pass of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.runner.diagnosis.faults import Fault, NotApplicableError
from cosmos_eval.stats.estimates import Ints


class Truth(NamedTuple):
    """The right answers: the class of every image, or the image of every caption."""

    # (N,) the classes of images, or (M,) the images of captions.
    labels: Ints
    # The number of classes, or of images.
    n_targets: int
    # The names of the classes; None for captions.
    class_names: tuple[str, ...] | None
    # (M,) which captions are used; None for classes.
    kept_captions: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelFault(Fault):
    """A fault of labels. The base class itself changes nothing."""

    def change(self, truth: Truth) -> Truth:
        """Return the labels with the fault. Raises NotApplicableError."""
        return truth

    def apply(self, truth: Truth) -> list[Truth]:
        """Return the labels with the fault, several times if it is random.

        Raises:
            NotApplicableError: If the data set cannot have the fault.
        """
        return [self.change(truth)]


@dataclass(frozen=True, kw_only=True)
class ShiftFault(LabelFault):
    """Labels are too high or too low."""

    step: int

    def change(self, truth: Truth) -> Truth:
        """Return the labels plus the step; the last class is followed by the first."""
        return truth._replace(labels=(truth.labels + self.step) % truth.n_targets)


@dataclass(frozen=True, kw_only=True)
class ScrambleFault(LabelFault):
    """Labels belong to other samples."""

    # The share of the samples whose labels change places.
    share: float
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)

    def apply(self, truth: Truth) -> list[Truth]:
        """Return the labels in a random order, once for each seed."""
        truths = []
        n_samples = len(truth.labels)
        for seed in self.seeds:
            rng = np.random.default_rng(seed)
            chosen_samples = rng.choice(n_samples, round(self.share * n_samples), replace=False)
            labels = truth.labels.copy()
            labels[chosen_samples] = labels[rng.permutation(chosen_samples)]
            truths.append(truth._replace(labels=labels))
        return truths


@dataclass(frozen=True, kw_only=True)
class ClassOrderFault(LabelFault):
    """The prompts of classes are in another order than the numbers of the labels."""

    # True to sort classes by name, false to sort their numbers as texts: 0, 1, 10, 11, 2.
    by_name: bool

    def change(self, truth: Truth) -> Truth:
        """Return for every image the class whose prompt stands at the place of the image's label.

        Example:
            The classes dog, cat and ant have the numbers 0, 1 and 2. Their prompts are sorted: ant,
            cat, dog. An image with the label 0 is then compared with the prompt of ant, class 2.
        """
        if truth.class_names is None:
            raise NotApplicableError("captions have no classes")
        classes = range(truth.n_targets)
        if self.by_name:
            order = sorted(classes, key=truth.class_names.__getitem__)
        else:
            order = sorted(classes, key=str)
        return truth._replace(labels=np.array(order)[truth.labels])


@dataclass(frozen=True, kw_only=True)
class FirstCaptionFault(LabelFault):
    """Only the first caption of every image is used."""

    def change(self, truth: Truth) -> Truth:
        """Keep each caption that is the first one of its image, and drop the others."""
        if truth.kept_captions is None:
            raise NotApplicableError("the data set has no captions")
        _, first_captions = np.unique(truth.labels, return_index=True)
        kept_captions = np.zeros(len(truth.labels), np.bool_)
        kept_captions[first_captions] = True
        return truth._replace(kept_captions=kept_captions)


LABEL_FAULTS: tuple[LabelFault, ...] = (
    ShiftFault(
        name="labels + 1",
        wrong="labels, or the images of captions, are one too high",
        check="look for a background class, and for counting from 1",
        step=1,
    ),
    ShiftFault(
        name="labels - 1",
        wrong="labels, or the images of captions, are one too low",
        check="look for a background class, and for counting from 1",
        step=-1,
    ),
    ScrambleFault(
        name="labels scrambled",
        wrong="samples have the labels of other samples",
        check="look for a shuffled loader, and for indices of a sorted list",
        share=1.0,
    ),
    ScrambleFault(
        name="half of labels scrambled",
        wrong="half of the samples have the labels of other samples",
        check="look for batches that are shuffled, lost or repeated",
        share=0.5,
    ),
    ClassOrderFault(
        name="class order by name",
        wrong="prompts are in alphabetical order, and labels are not",
        check="compare the list of class names with the numbers of the labels",
        by_name=True,
    ),
    ClassOrderFault(
        name="class order as text",
        wrong="numbers of classes are sorted as texts: 0, 1, 10, 11, 2",
        check="look for sorted() over names of folders that are numbers",
        by_name=False,
    ),
    FirstCaptionFault(
        name="first caption only",
        wrong="only the first caption of every image is used",
        check="compare the numbers of captions",
    ),
)
