"""The stored per-sample data of a localisation result, and the figures that follow from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.intervals import statistic_bootstrap
from cosmos_eval.stats.localisation import (
    MapScores,
    Pairs,
    Sums,
    localisation_metrics,
    localisation_statistic,
    sums_of_images,
)
from cosmos_eval.types import Figures, Samples

NAME = "name"  # (N,) of the images
PIXELS = "image_pixels"  # (N,)
LABELLED = "labelled_pixels"  # (N,) pixels with a label
CLASSES = "classes"  # (C,) names
BOUNDS = "bounds"  # (2,) shares of an image from which on a thing is medium, and large
IMAGE = "image"  # (P,) number of the image of a pair
CLASS = "class"  # (P,) number of its class
THING = "thing_pixels"  # (P,) pixels of the class
MASS = "mass"  # (P,) and below: metrics.localisation.MapScores, float32
HIT = "hit"
AUC = "auc"
OTHER_NAMES = "other_names"


def recompute(samples: Samples, seed: int) -> Figures:
    """All figures of a result. Raises KeyError where an array is missing.

    Metrics of a size of which there is no thing are left out, as are those against other names
    where no image has two things. Figures of a class are None where no image has it.
    """
    sums = sums_of(samples)
    metrics = localisation_metrics(Sums(*(part.sum(0) for part in sums)))
    known = {name: float(value) for name, value in metrics.items() if not np.isnan(value)}
    intervals = statistic_bootstrap(localisation_statistic(sums), len(samples[NAME]), seed=seed)
    return Figures(
        metrics=known,
        intervals={name: interval for name, interval in intervals.items() if name in known},
        n_samples=len(samples[NAME]),
        per_class=_per_class(samples),
    )


def sums_of(samples: Samples) -> Sums:
    """Sums over the pairs of every image, (N, sizes)."""
    return sums_of_images(_pairs(samples), len(samples[NAME]))


def _pairs(samples: Samples) -> Pairs:
    of_image = samples[THING] / samples[PIXELS][samples[IMAGE]]
    scores = (samples[name].astype(np.float64) for name in (MASS, HIT, AUC, OTHER_NAMES))
    return Pairs(
        image=samples[IMAGE],
        size=np.searchsorted(samples[BOUNDS], of_image, side="right"),
        area=_areas(samples),
        scores=MapScores(*scores),
    )


def _areas(samples: Samples) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = samples[THING] / samples[LABELLED][samples[IMAGE]]
    return areas


def _per_class(samples: Samples) -> dict[str, dict[str, float | None]]:
    """Means over the pairs of every class, and how many there are."""
    classes, of_pair = samples[CLASSES].tolist(), samples[CLASS]
    counts = np.bincount(of_pair, minlength=len(classes))
    columns = {
        "attention_mass": samples[MASS],
        "area": _areas(samples),
        "pointing_game": samples[HIT],
        "AUC": samples[AUC],
    }
    totals = {
        name: np.bincount(of_pair, weights=values, minlength=len(classes))
        for name, values in columns.items()
    }
    return {
        name: {
            **{
                figure: float(total[number] / counts[number]) if counts[number] else None
                for figure, total in totals.items()
            },
            "images": int(counts[number]),
        }
        for number, name in enumerate(classes)
    }
