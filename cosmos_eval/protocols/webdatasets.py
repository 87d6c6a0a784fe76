"""Webdatasets of the Hugging Face hub by name: families `clip-benchmark` and `datacomp`.

facts/webdatasets.csv has names, sizes and main metrics with their sources; unknown numbers are
empty. Repositories: clip-benchmark/wds_NAME as in CLIP Benchmark's benchmark/README.md, and
djghosh/wds_NAME_test as in DataComp's download_evalsets.py, whose evaluate.py takes acc1 where
tasklist.yml has no main metric. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from cosmos_eval.protocols.facts import read_table
from cosmos_eval.types import ClassificationProtocol, Protocol, RetrievalProtocol

_REPOSITORIES = {"clip-benchmark": "clip-benchmark/wds_{}", "datacomp": "djghosh/wds_{}_test"}
_MEASURED = ("", "acc1", "mean_per_class_recall")  # main metrics; the others need groups of images


def _protocol(row: Mapping[str, str]) -> Protocol:
    name, family = row["name"], row["family"]
    repository = _REPOSITORIES[family].format(name.removeprefix("fairness/").replace("/", "-"))
    common: dict[str, Any] = {
        "dataset": f"wds/{name}",
        "family": family,
        "source": f"https://{row['source']}",
        "download": f"https://huggingface.co/datasets/{repository}",
        "repository": repository,
        "n_images": int(row["n_images"]) if row["n_images"] else None,
        "main_metric": row["main_metric"] or None,
    }
    if row["task"] == "retrieval":
        return RetrievalProtocol(**common, archives=".")
    n_classes = int(row["n_classes"]) if row["n_classes"] else None
    return ClassificationProtocol(**common, folder=".", layout="webdataset", n_classes=n_classes)


def _by_name() -> Mapping[str, Mapping[str, Protocol]]:
    found: dict[str, dict[str, Protocol]] = {}
    for row in read_table("webdatasets.csv"):
        if row["main_metric"] in _MEASURED:
            protocol = _protocol(row)
            found.setdefault(protocol.dataset, {})[protocol.family] = protocol
    return found


WEBDATASETS: Mapping[str, Mapping[str, Protocol]] = _by_name()
"""Protocols of every webdataset by name, then by family; CLIP Benchmark's first."""


def main_metric(dataset: str, family: str) -> str | None:
    """Return the metric that a webdataset's own benchmark reports; None of any other data set."""
    protocol = WEBDATASETS.get(dataset.partition("@")[0], {}).get(family)
    return protocol.main_metric if protocol else None
