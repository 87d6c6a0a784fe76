"""The eleven sets of CoOp that coop.yaml declares, with few training images per class.

Their protocols are `coop`, with the three seeds of the papers, and `coop-10-seeds`, with the ten of
CoOp's lpclip/linear_probe.py. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import ClassificationProtocol, ProbeProtocol

_SOURCE = (
    "github.com/KaiyangZhou/CoOp at ff61507; constants of the cache: "
    "github.com/gaopengcuhk/Tip-Adapter at d0e2d6f"
)


def _make_coop(dataset: str, **entry: Any) -> ProbeProtocol:
    """Return the protocol of a data set with few training images per class.

    Args:
        dataset: The name of the data set, such as `coop/dtd`.
        **entry: The fields of its entry in coop.yaml. `n_images` are the numbers of images of all
            splits: training, validation unless the data set has no such images, and test.
    """
    cache_fields = {name: entry.pop(name) for name in ("cache_search", "cache_alpha")}
    n_images = entry.pop("n_images")
    training_folder = entry.pop("training_folder", entry["folder"])
    usual_folders = entry.get("usual_folders", ())
    usual_training_folders = entry.pop("usual_training_folders", usual_folders)
    test = ClassificationProtocol(dataset=dataset, protocol_name="coop", source=_SOURCE, **entry)

    names = ("train", "val", "test") if len(n_images) == 3 else ("train", "test")
    splits = []
    for name, number in zip(names, n_images, strict=True):
        split = replace(test, split=name, n_images=number)
        if split.split_file is not None:
            split = replace(split, split_file=split.split_file.replace("{}", name))
        splits.append(split)
    splits[0] = replace(splits[0], folder=training_folder, usual_folders=usual_training_folders)
    return ProbeProtocol(
        dataset=dataset,
        protocol_name="coop",
        source=_SOURCE,
        download=test.download,
        train="training images",
        test="test images",
        splits=tuple(splits),
        is_coop=True,
        **cache_fields,
    )


COOP: Mapping[str, ProbeProtocol] = read_protocols("coop", _make_coop)
"""The sets by name, such as `coop/dtd`, under the protocol `coop`."""
COOP_BY_PROTOCOL: Mapping[str, Mapping[str, ProbeProtocol]] = {
    "coop": COOP,
    "coop-10-seeds": {
        name: replace(protocol, protocol_name="coop-10-seeds", draws=10)
        for name, protocol in COOP.items()
    },
}
"""Protocols by the name of the protocol, then by the data set."""
