"""Images that have a label map each: where they are, and whether they fit what is declared.

What the rooms of such data sets share. Importing it imports no torch.
"""

from __future__ import annotations

from functools import partial

from cosmos_eval.data.label_maps.constants import check_constants, has_background
from cosmos_eval.data.label_maps.mmcv import mmseg_datasets, mmseg_models
from cosmos_eval.data.label_maps.read import (
    Label,
    LabelMaps,
    Sample,
    check_sample,
    open_data,
    palette,
    part,
    read_label,
    require_same_size,
)
from cosmos_eval.data.label_maps.survey import Survey, survey
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.types import LabelMapProtocol, RunOptions

__all__ = [
    "Label",
    "LabelMaps",
    "Sample",
    "Survey",
    "check",
    "check_constants",
    "has_background",
    "mmseg_datasets",
    "mmseg_models",
    "open_data",
    "palette",
    "part",
    "read_label",
    "require_same_size",
    "survey",
]


def check(protocol: LabelMapProtocol, options: RunOptions) -> None:
    """Raise UsageError where data are missing or inconsistent, before any model is loaded.

    Reads every label map, because an undeclared class would otherwise show after hours.
    """
    check_constants(protocol)
    data = open_data(protocol, options)
    one = partial(check_sample, protocol=protocol)
    for _ in prefetch(data.samples, one, workers=options.workers, window=4 * options.workers):
        pass
