"""Images that have a label map each: where they are, and whether they fit what is declared.

What the tasks of such data sets share. Importing it imports no torch.
"""

from cosmos_eval.data.label_map_checks import check, check_constants, has_background, survey
from cosmos_eval.data.label_maps import (
    Label,
    LabelMaps,
    Sample,
    mmseg_datasets,
    mmseg_models,
    open_data,
    palette,
    part,
    read_label,
    require_same_size,
)

__all__ = [
    "Label",
    "LabelMaps",
    "Sample",
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
