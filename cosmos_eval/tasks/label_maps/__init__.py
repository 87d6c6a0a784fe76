"""Images that have a label map each: where they are, and whether they fit what is declared.

What the tasks of such data sets share. Importing it imports no torch.
"""

from pathlib import Path

from cosmos_eval.data.folders import find_root
from cosmos_eval.data.label_map_checks import check, check_constants, has_background, survey
from cosmos_eval.data.label_maps import (
    Label,
    LabelMaps,
    Sample,
    mmseg_datasets,
    mmseg_models,
    open_data,
    palette,
    read_label,
    require_same_size,
)
from cosmos_eval.types import LabelMapProtocol, UsageError

__all__ = [
    "Label",
    "LabelMaps",
    "Sample",
    "check",
    "check_constants",
    "has_background",
    "is_there",
    "mmseg_datasets",
    "mmseg_models",
    "open_data",
    "palette",
    "read_label",
    "require_same_size",
    "survey",
]

CHECKED = "every file, the size of every image, every pixel of every label map"


def is_there(protocol: LabelMapProtocol, root: Path) -> bool:
    """Return whether the folders of a set are below a root."""
    try:
        return bool(find_root(protocol, str(root)))
    except UsageError:
        return False
