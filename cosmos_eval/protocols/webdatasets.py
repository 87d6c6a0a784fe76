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

# The names of repositories by protocol, with `{}` for the name of the data set.
_REPOSITORIES = {"clip-benchmark": "clip-benchmark/wds_{}", "datacomp": "djghosh/wds_{}_test"}
# Main metrics that are only measured if the protocol names them.
_NAMED_METRICS: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = (
    "f1_macro",
    "worst_group_acc5",
)


def _make_protocol(row: Mapping[str, str]) -> Protocol:
    """Return the protocol that a row of facts/webdatasets.csv describes.

    Args:
        row: The text of each column. An empty text stands for an unknown number or no value. The
            column `task` decides the type of the protocol.

    Example:
        A row with the name `imagenet-a`, the task `cls`, the protocol `datacomp` and 7500 images
        gives `ClassificationProtocol(dataset="wds/imagenet-a",
        repository="djghosh/wds_imagenet-a_test", n_images=7500, ...)`.
    """
    repository = _repository_name(row)
    fields: dict[str, Any] = {
        "dataset": f"wds/{row['name']}",
        "protocol_name": row["protocol_name"],
        "source": f"https://{row['source']}",
        "download": f"https://huggingface.co/datasets/{repository}",
        "repository": repository,
        "main_metric": row["main_metric"] or None,
    }
    fields.update(_make_file_fields(row))
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


def _repository_name(row: Mapping[str, str]) -> str:
    """Return the name of a data set's repository on the Hugging Face hub.

    Args:
        row: A row of facts/webdatasets.csv, by column.

    Example:
        The data set `vtab/caltech101` is in `clip-benchmark/wds_vtab-caltech101` under the protocol
        `clip-benchmark`, and in `djghosh/wds_vtab-caltech101_test` under `datacomp`. A data set
        without tar archives, such as `misc/winogavil`, is in `nlphuji/winogavil`.
    """
    name = row["name"]
    has_archives = not row["files"]
    if not has_archives:
        name_without_folder = name.partition("/")[2]
        return f"nlphuji/{name_without_folder}"
    name_in_repository = name.removeprefix("fairness/").replace("/", "-")
    return _REPOSITORIES[row["protocol_name"]].format(name_in_repository)


def _make_file_fields(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a protocol that say where its images and captions or classes are.

    They are in tar archives, unless the column `files` names a file of annotations and a file of
    images.

    Args:
        row: A row of facts/webdatasets.csv, by column.

    Example:
        For a classification set in tar archives: `{"folder": ".", "layout": "webdataset"}`. For a
        row with the files `list.csv images.zip`: `{"annotations": "list.csv", "images":
        "images.zip"}`.
    """
    if not row["files"]:
        if row["task"] == "retrieval":
            return {"archives": "."}
        return {"folder": ".", "layout": "webdataset"}
    annotations, images = row["files"].split()
    fields: dict[str, Any] = {"annotations": annotations, "images": images}
    if row["task"] == "retrieval":
        # The tables in these repositories have the columns `filename` and `raw`. A cell of `raw`
        # holds a list of captions.
        fields.update(image_key="filename", caption_key="raw")
        fields.update(bare_names=True, listed_captions=True)
    return fields


def _read_webdatasets() -> Mapping[str, Mapping[str, Protocol]]:
    """Return the protocols of facts/webdatasets.csv by the data set, then by the protocol's name.

    For example `{"wds/cars": {"clip-benchmark": ..., "datacomp": ...}}`.
    """
    protocols_by_dataset: dict[str, dict[str, Protocol]] = {}
    for row in read_table("webdatasets.csv"):
        protocol = _make_protocol(row)
        protocol_by_name = protocols_by_dataset.setdefault(protocol.dataset, {})
        protocol_by_name[protocol.protocol_name] = protocol
    return protocols_by_dataset


WEBDATASETS: Mapping[str, Mapping[str, Protocol]] = _read_webdatasets()
"""Protocols of every webdataset by name, then by protocol; CLIP Benchmark's first."""


def main_metric(dataset: str, protocol_name: str) -> str | None:
    """Return the name of the metric that the benchmark of a webdataset reports, such as `acc1`.

    Return None for other data sets, and if the benchmark does not state a metric.

    Args:
        dataset: The name of a data set. It may have a revision, as in `wds/cars@v1`.
        protocol_name: `clip-benchmark` or `datacomp`.
    """
    name_without_revision = dataset.partition("@")[0]
    protocol_by_name = WEBDATASETS.get(name_without_revision, {})
    protocol = protocol_by_name.get(protocol_name)
    return protocol.main_metric if protocol else None
