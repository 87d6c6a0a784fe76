"""Classification data sets and the class lists they are told apart by. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cosmos_eval.types import ClassificationProtocol, Protocol


class ClassList(NamedTuple):
    """Folders whose sorted order a list of prompt names follows.

    `folders_sha256` is of the sorted folder names joined by newlines.
    """

    folders: str
    n_folders: int
    folders_sha256: str


# The 1,000 WordNet ids of ILSVRC 2012, in sorted order the classes of open_clip's
# IMAGENET_CLASSNAMES; compared with timm's copy (timm/data/_info/imagenet_synsets.txt) by a test.
CLASS_LISTS: Mapping[str, ClassList] = {
    "imagenet1k": ClassList(
        folders="WordNet ids",
        n_folders=1000,
        folders_sha256="385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd",
    )
}

# Names and templates as published: open_clip's IMAGENET_CLASSNAMES (with its duplicates) and
# OPENAI_IMAGENET_TEMPLATES; the folder is that of torchvision.datasets.ImageNet.
_IMAGENET1K = ClassificationProtocol(
    dataset="imagenet1k",
    family="cosmos",
    source="github.com/ExplainableML/cosmos",
    download="https://image-net.org/download.php",
    folder="val",
    class_list="imagenet1k",
    templates="openai-imagenet",
)

CLASSIFICATION: Mapping[str, Protocol] = {protocol.dataset: protocol for protocol in (_IMAGENET1K,)}
