"""Localisation: how much of a map of what a class is called falls on that class.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.label_map_checks import CHECKED, check, is_there, survey
from cosmos_eval.data.label_maps import LabelMaps, open_data
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats import localisation as stats
from cosmos_eval.stats.estimates import FunctionOfSums, GroupMean, Values, means_of_groups
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.task import NAME, Derived, Metric, Task
from cosmos_eval.types import LocalisationProtocol, Measurement, OnProgress, RunOptions, Samples

PIXELS = "image_pixels"  # (N,)
LABELLED = "labelled_pixels"  # (N,) pixels with a label
CLASSES = "classes"  # (C,) names
BOUNDS = "bounds"  # (2,) shares of an image from which on a thing is medium, and large
IMAGE = "image"  # (P,) number of the image of a pair
CLASS = "class"  # (P,) number of its class
THING = "thing_pixels"  # (P,) pixels of the class
MASS = "mass"  # (P,) and below: stats.localisation.MapScores, float32
HIT = "hit"
AUC = "auc"
OTHER_NAMES = "other_names"
SCORES = (MASS, HIT, AUC, OTHER_NAMES)
_MOST_PIXELS = 2**31  # of an image
ARRAYS = (
    SampleArray(NAME, "text", ("images",)),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(BOUNDS, "number", (2,), least=0, most=1),
    SampleArray(PIXELS, "whole number", ("images",), least=1, most=_MOST_PIXELS),
    SampleArray(LABELLED, "whole number", ("images",), least=0, most=_MOST_PIXELS),
    SampleArray(IMAGE, "whole number", ("pairs",), least=0, below="images"),
    SampleArray(CLASS, "whole number", ("pairs",), least=0, below="classes"),
    SampleArray(THING, "whole number", ("pairs",), least=1, most=_MOST_PIXELS),
    SampleArray(MASS, "number", ("pairs",), least=0, most=1),
    SampleArray(HIT, "number", ("pairs",), least=0, most=1),
    SampleArray(AUC, "number", ("pairs",), least=0, most=1),
    SampleArray(OTHER_NAMES, "number", ("pairs",), least=0, most=1, may_be_nan=True),
)
SUMS = "sums"  # derived: cosmos_eval.stats.localisation.Sums of every image


def derive(samples: Samples) -> Derived:
    """Add the sums over the pairs of every image, (N, sizes)."""
    of_image = samples[THING] / samples[PIXELS][samples[IMAGE]]
    size = np.searchsorted(samples[BOUNDS], of_image, side="right")
    scores = stats.MapScores(*(samples[name].astype(np.float64) for name in SCORES))
    pairs = stats.Pairs(samples[IMAGE], size, _areas(samples), scores)
    return {**samples, SUMS: stats.sums_of_images(pairs, len(samples[NAME]))}


def _require_pixels(samples: Samples) -> None:
    """Raise ValueError for a thing with more pixels than its image has labelled, or has at all."""
    if (samples[LABELLED] > samples[PIXELS]).any():
        raise ValueError(f"`{LABELLED}` holds more than `{PIXELS}`")
    if (samples[THING] > samples[LABELLED][samples[IMAGE]]).any():
        raise ValueError(f"`{THING}` holds more than `{LABELLED}` of its image")


def _metric(name: str, size: int | None, function: Callable[[stats.Sums], Values]) -> Metric:
    def estimate(samples: Derived) -> FunctionOfSums:
        return FunctionOfSums(samples[SUMS], lambda sums: function(stats.of_size(size, sums)))

    shown = size is None and name != "area"
    return Metric(
        name if size is None else f"{name}_{stats.SIZES[size]}",
        estimate,
        "ratio" if "_over_" in name else "fraction",
        label=name.replace("_over_", " / ").replace("_", " ") if shown else "",
        headline=shown,
        primary=size is None and name in ("attention_mass", "AUC"),
    )


def _pointing_by_class(samples: Derived) -> GroupMean | None:
    hits = samples[HIT].astype(np.float64)
    return GroupMean(hits, samples[CLASS], samples[IMAGE]) if len(hits) else None


def _areas(samples: Samples) -> NDArray[np.float64]:
    return np.divide(samples[THING], samples[LABELLED][samples[IMAGE]])


def per_class(samples: Samples) -> dict[str, dict[str, float | None]]:
    """Means over the pairs of every class, and how many there are."""
    columns = {"attention_mass": samples[MASS], "area": _areas(samples)}
    columns |= {"pointing_game": samples[HIT], "AUC": samples[AUC]}
    return means_of_groups(samples[CLASSES].tolist(), samples[CLASS], columns, "images")


def columns(samples: Samples) -> dict[str, Any]:
    """One row per image and class in it."""
    found = {"image": samples[NAME][samples[IMAGE]], "class": samples[CLASSES][samples[CLASS]]}
    return {**found, **{name: samples[name] for name in (THING, *SCORES)}}


def measure(
    encoder: Encoder,
    protocols: Sequence[LocalisationProtocol],
    options: RunOptions,
    progress: OnProgress,
    data: Sequence[LabelMaps] | None = None,
) -> Iterator[Measurement]:
    """Yield a measurement per protocol, of checked data; finished shards are stored until then.

    Raises UsageError for a model without the requested kind of map and for damaged images.
    """
    from cosmos_eval.tasks.localisation.evaluate import measure_data

    opened = data or [open_data(protocol, options) for protocol in protocols]
    for protocol, own in zip(protocols, opened, strict=True):
        yield from measure_data(encoder, protocol, options, progress, own)


TASK = Task(
    protocol=LocalisationProtocol,
    # Of all things, then of those of each size, of which there may be none.
    metrics=(
        *(
            _metric(name, size, function)
            for size in (None, *range(len(stats.SIZES)))
            for name, function in stats.METRICS.items()
        ),
        Metric("pointing_game_by_class", _pointing_by_class, later=True),
    ),
    arrays=ARRAYS,
    require_consistent=_require_pixels,
    names_hash="samples",
    truth=(NAME, PIXELS, LABELLED, CLASSES, BOUNDS, IMAGE, CLASS, THING),
    open_data=open_data,
    check=check,
    checked=CHECKED,
    measure_together=measure,
    # Both families of a data set make their own maps, and are timed by themselves.
    image_pass=lambda protocol, *_: (protocol.dataset, protocol.family),
    derive=derive,
    per_class=per_class,
    columns=columns,
    survey=survey,
    is_there=is_there,
    n_samples=lambda protocol: protocol.n_images,
    attention=lambda protocol: protocol.attention,
)
