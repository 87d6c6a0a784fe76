"""Facts about models and data sets from other sources; every row names its source.

openclip_profile.csv is OpenCLIP's docs/model_profile.csv: parameters in millions, and GFLOPs with 2
per multiply-accumulate. training.csv has the training of models by patterns of their names, of
which the first that matches counts; facts that its source does not state are empty. webdatasets.csv
has the names, sizes and main metrics of webdatasets (protocols/webdatasets.py). released.csv has
the SHA-256 of released checkpoints' files, if it is known.

datasets.csv has facts about data sets. A row states facts of one source on the data sets in its
first column, whose names may hold `*`. `download_bytes` is the size of all files to download for
the data set, packed as they are published. `original` says whether the reader was tried on original
files: `read` (at least parts with images), `lists` (only annotations), `no`. What no source states
is empty. Topics are this package's.
"""

import csv
from collections.abc import Collection
from fnmatch import filter as matching_names
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

DATASET_FACTS = ("topic", "download_bytes", "licence", "original")
"""The columns of datasets.csv that hold facts."""


def profile_of(architecture: str) -> dict[str, Any]:
    """Return the numbers of parameters and the GFLOPs of an architecture of OpenCLIP.

    Args:
        architecture: The name of the architecture, such as `ViT-B-32` or `ViT-B-32-quickgelu`.

    Returns:
        The facts by their names in results, such as `parameters` and `image_gflops`. Empty for
        other architectures.
    """
    row_by_model = {row["model"]: row for row in read_table("openclip_profile.csv")}
    # The activation QuickGELU changes none of these facts.
    base_architecture = architecture.removesuffix("-quickgelu")
    row = row_by_model.get(architecture) or row_by_model.get(base_architecture)
    if row is None:
        return {}
    return {
        "parameters": round(float(row["mparams"]) * 1e6),  # the table has millions
        "image_parameters": round(float(row["image_mparams"]) * 1e6),
        "text_parameters": round(float(row["text_mparams"]) * 1e6),
        "image_gflops": float(row["image_gflops"]),
        "text_gflops": float(row["text_gflops"]),
        "image_size": [int(row["image_size"])] * 2,  # width and height in pixels
        "embedding_size": int(row["embed_dim"]),
    }


def training_of(model: str) -> dict[str, Any]:
    """Return the training data and the number of samples seen of a model, if they are known.

    Args:
        model: The specification of the model, such as `openclip:ViT-B-32/openai`.

    Returns:
        A dictionary with `training_data` and `samples_seen`. Unknown facts are left out.
    """
    # With the activation QuickGELU, an architecture is measured with the same weights.
    name = model.replace("-quickgelu/", "/")
    for row in read_table("training.csv"):
        pattern = row["model"]
        # For fnmatch, a `*` also matches a `/`. Here it must not.
        has_same_depth = pattern.count("/") == name.count("/")
        if has_same_depth and fnmatchcase(name, pattern):
            facts: dict[str, Any] = {}
            if row["training_data"]:
                facts["training_data"] = row["training_data"]
            if int(row["samples_seen"] or 0):
                facts["samples_seen"] = int(row["samples_seen"])
            return facts
    return {}


def released_model(weights_sha256: str | None) -> str | None:
    """Return the name of the released checkpoint whose file has this SHA-256, or None."""
    for row in read_table("released.csv"):
        if row["sha256"] == weights_sha256:
            return row["model"]
    return None


def facts_of_datasets(names: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the facts about data sets that datasets.csv has, by the names of the data sets.

    If several rows state a fact about a data set, the first one counts.

    Args:
        names: The names of data sets.

    Returns:
        The facts of each data set by the names in `DATASET_FACTS`, and `sources`, the URLs of the
        rows that state them, separated by spaces. Facts without a row are left out.

    Example:
        `facts_of_datasets(["food101"])` gives `{"food101": {"topic": "food", "original": "lists",
        "download_bytes": "4996278331", "sources": "https://..."}}`.
    """
    facts_by_name: dict[str, dict[str, str]] = {name: {} for name in names}
    for row in read_table("datasets.csv"):
        for pattern in row["datasets"].split():
            for name in matching_names(names, pattern) if "*" in pattern else [pattern]:
                if name in facts_by_name:
                    _add_facts(facts_by_name[name], row)
    return facts_by_name


def _add_facts(facts: dict[str, str], row: dict[str, str]) -> None:
    """Add the facts of a row of datasets.csv that are still missing, and the row's source."""
    new_facts = [key for key in DATASET_FACTS if row[key] and key not in facts]
    for key in new_facts:
        facts[key] = row[key]
    if new_facts and row["source"]:
        facts["sources"] = f"{facts.get('sources', '')} {row['source']}".strip()


@cache
def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a .csv file of this package, each as texts by the names of columns."""
    lines = files(__name__).joinpath(name).read_text("utf-8").splitlines()
    return list(csv.DictReader(lines))
