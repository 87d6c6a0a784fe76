"""Webdatasets of the Hugging Face hub by name: families `clip-benchmark` and `datacomp`.

facts/webdatasets.csv has names, sizes and main metrics with their sources; unknown numbers are
empty. Repositories: clip-benchmark/wds_NAME as in CLIP Benchmark's benchmark/README.md, and
djghosh/wds_NAME_test and nlphuji/NAME as in DataComp's download_evalsets.py. DataComp's evaluate.py
takes acc1 where tasklist.yml has no main metric, and its mean_recall@1 (eval_utils/retr_eval.py) is
the mean of both directions, as suites take it. `metadata` and `groups` are what the .npy of
DataComp's samples holds, and what makes a group: eval_utils/wilds_eval.py and fairness_eval.py,
commit 274dbee, whose F1-macro_all, acc_worst_region, acc_wg and acc_top5_wg have other names here.
`files` are the list and the images of sets without archives. Imports no torch."""

from collections.abc import Mapping
from typing import Any, Literal

from cosmos_eval.protocols.facts import read_table
from cosmos_eval.types import (
    AssociationProtocol,
    ClassificationProtocol,
    FacesProtocol,
    MultilabelProtocol,
    Protocol,
    RetrievalProtocol,
)

_REPOSITORIES = {"clip-benchmark": "clip-benchmark/wds_{}", "datacomp": "djghosh/wds_{}_test"}
_LIKE_CLS = {"multilabel": MultilabelProtocol, "faces": FacesProtocol}
# Main metrics that only protocols which name them have.
_MORE: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = ("f1_macro", "worst_group_acc5")


def _protocol(row: Mapping[str, str]) -> Protocol:
    name, family = row["name"], row["family"]
    repository = _REPOSITORIES[family].format(name.removeprefix("fairness/").replace("/", "-"))
    if row["files"]:
        repository = f"nlphuji/{name.partition('/')[2]}"
    common: dict[str, Any] = {
        "dataset": f"wds/{name}",
        "family": family,
        "source": f"https://{row['source']}",
        "download": f"https://huggingface.co/datasets/{repository}",
        "repository": repository,
        "main_metric": row["main_metric"] or None,
        **_files(row),
    }
    size = int(row["n_images"]) if row["n_images"] else None
    if row["task"] == "assoc":
        return AssociationProtocol(**common, n_items=size)
    common["n_images"] = size
    if row["task"] == "retrieval":
        return RetrievalProtocol(**common)
    common["n_classes"] = int(row["n_classes"]) if row["n_classes"] else None
    if row["task"] in _LIKE_CLS:
        return _LIKE_CLS[row["task"]](**common)
    return ClassificationProtocol(
        **common,
        metadata=tuple(row["metadata"].split()),
        group_keys=tuple(row["groups"].split()),
        metrics=tuple(name for name in _MORE if name == row["main_metric"]),
    )


def _files(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a protocol that say where its images and what belongs to them are."""
    if row["files"]:
        annotations, images = row["files"].split()
        keys = {"image_key": "filename", "caption_key": "raw"}  # of the scripts' tables
        flags = {"bare_names": True, "listed_captions": True}
        of_task = {**keys, **flags} if row["task"] == "retrieval" else {}
        return {"annotations": annotations, "images": images, **of_task}
    if row["task"] == "retrieval":
        return {"archives": "."}
    return {"folder": ".", "layout": "webdataset"}


def _by_name() -> Mapping[str, Mapping[str, Protocol]]:
    found: dict[str, dict[str, Protocol]] = {}
    for row in read_table("webdatasets.csv"):
        protocol = _protocol(row)
        found.setdefault(protocol.dataset, {})[protocol.family] = protocol
    return found


WEBDATASETS: Mapping[str, Mapping[str, Protocol]] = _by_name()
"""Protocols of every webdataset by name, then by family; CLIP Benchmark's first."""


def main_metric(dataset: str, family: str) -> str | None:
    """Return the metric that a webdataset's own benchmark reports; None of any other data set."""
    protocol = WEBDATASETS.get(dataset.partition("@")[0], {}).get(family)
    return protocol.main_metric if protocol else None
