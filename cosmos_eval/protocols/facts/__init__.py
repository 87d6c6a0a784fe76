"""Facts about models and data sets from other sources; every row names its source.

openclip_profile.csv is OpenCLIP's docs/model_profile.csv: parameters in millions, and GFLOPs with 2
per multiply-accumulate. training.csv has the training of models by patterns of their names, of
which the first that matches counts; facts that its source does not state are empty. webdatasets.csv
has the names, sizes and main metrics of webdatasets (protocols/webdatasets.py). released.csv has
the SHA-256 of released checkpoints' files, if it is known.
"""

import csv
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any


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


@cache
def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a .csv file of this package, each as texts by the names of columns."""
    lines = files(__name__).joinpath(name).read_text("utf-8").splitlines()
    return list(csv.DictReader(lines))
