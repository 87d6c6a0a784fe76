"""Webdatasets of the Hugging Face hub by name, under the protocols `clip-benchmark` and `datacomp`.

facts/webdatasets.csv has names, sizes and main metrics with their sources; unknown numbers are
empty. Repositories are clip-benchmark/wds_NAME, as in CLIP Benchmark's benchmark/README.md, and
djghosh/wds_NAME_test and nlphuji/NAME, as in DataComp's download_evalsets.py.

DataComp's evaluate.py takes acc1 if tasklist.yml has no main metric. Its mean_recall@1
(eval_utils/retr_eval.py) is the mean of both directions, as suites take it. The column `metadata`
names the numbers in the .npy member of DataComp's samples, and `groups` the numbers that make a
group: eval_utils/wilds_eval.py and fairness_eval.py, commit 274dbee. Their F1-macro_all,
acc_worst_region, acc_wg and acc_top5_wg have other names here. The column `files` names the list
and the images of sets without archives. Imports no torch.
"""

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
# Main metrics that are only measured if the protocol names them.
_NAMED_METRICS: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = (
    "f1_macro",
    "worst_group_acc5",
)


def _protocol(row: Mapping[str, str]) -> Protocol:
    """Return the protocol that a row of the table describes."""
    repository = _repository(row)
    fields: dict[str, Any] = {
        "dataset": f"wds/{row['name']}",
        "protocol_name": row["protocol_name"],
        "source": f"https://{row['source']}",
        "download": f"https://huggingface.co/datasets/{repository}",
        "repository": repository,
        "main_metric": row["main_metric"] or None,
    }
    fields.update(_file_fields(row))
    n_samples = int(row["n_images"]) if row["n_images"] else None
    if row["task"] == "assoc":
        return AssociationProtocol(**fields, n_items=n_samples)
    fields["n_images"] = n_samples
    if row["task"] == "retrieval":
        return RetrievalProtocol(**fields)
    fields["n_classes"] = int(row["n_classes"]) if row["n_classes"] else None
    if row["task"] == "multilabel":
        return MultilabelProtocol(**fields)
    if row["task"] == "faces":
        return FacesProtocol(**fields)
    return ClassificationProtocol(
        **fields,
        metadata=tuple(row["metadata"].split()),
        group_keys=tuple(row["groups"].split()),
        metrics=tuple(metric for metric in _NAMED_METRICS if metric == row["main_metric"]),
    )


def _repository(row: Mapping[str, str]) -> str:
    """Return the name of the set's repository on the hub."""
    name = row["name"]
    if row["files"]:
        return f"nlphuji/{name.partition('/')[2]}"
    return _REPOSITORIES[row["protocol_name"]].format(
        name.removeprefix("fairness/").replace("/", "-")
    )


def _file_fields(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a protocol that locate its images and their captions or classes."""
    if not row["files"]:
        if row["task"] == "retrieval":
            return {"archives": "."}
        return {"folder": ".", "layout": "webdataset"}
    annotations, images = row["files"].split()
    fields: dict[str, Any] = {"annotations": annotations, "images": images}
    if row["task"] == "retrieval":
        # The columns and the form of the tables in these repositories.
        fields.update(image_key="filename", caption_key="raw")
        fields.update(bare_names=True, listed_captions=True)
    return fields


def _read_webdatasets() -> Mapping[str, Mapping[str, Protocol]]:
    """Return the protocols of all rows of the table by data set, then by protocol."""
    protocols: dict[str, dict[str, Protocol]] = {}
    for row in read_table("webdatasets.csv"):
        protocol = _protocol(row)
        protocols.setdefault(protocol.dataset, {})[protocol.protocol_name] = protocol
    return protocols


WEBDATASETS: Mapping[str, Mapping[str, Protocol]] = _read_webdatasets()
"""Protocols of every webdataset by name, then by protocol; CLIP Benchmark's first."""


def main_metric(dataset: str, protocol_name: str) -> str | None:
    """Return the metric that the benchmark of a webdataset reports, or None for other data sets."""
    protocol = WEBDATASETS.get(dataset.partition("@")[0], {}).get(protocol_name)
    return protocol.main_metric if protocol else None
