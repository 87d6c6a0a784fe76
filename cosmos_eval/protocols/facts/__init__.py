"""Facts of models and data sets as others state them; every row has its source.

openclip_profile.csv is OpenCLIP's docs/model_profile.csv: parameters in millions, and GFLOPs with 2
per multiply-accumulate. training.csv has the training of models by patterns of their names, of
which the first that fits counts; what its source does not state is empty. webdatasets.csv has
the names, sizes and main metrics of webdatasets (protocols/webdatasets.py). released.csv has the
SHA-256 of released checkpoints' files, as far as it is known."""

import csv
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any


def profile_of(architecture: str) -> dict[str, Any]:
    """Return facts of an architecture of OpenCLIP's, as results have them; none of others."""
    rows = {row["model"]: row for row in read_table("openclip_profile.csv")}
    row = rows.get(architecture) or rows.get(architecture.removesuffix("-quickgelu"))
    if row is None:
        return {}
    millions = {"parameters": "mparams", "image_parameters": "image_mparams"}
    millions["text_parameters"] = "text_mparams"
    return {
        **{name: round(float(row[column]) * 1e6) for name, column in millions.items()},
        **{name: float(row[name]) for name in ("image_gflops", "text_gflops")},
        "image_size": [int(row["image_size"])] * 2,
        "embedding_size": int(row["embed_dim"]),
    }


def training_of(model: str) -> dict[str, Any]:
    """Return training data and samples seen of a model by its name, where they are known."""
    name = model.replace("-quickgelu/", "/")  # the same weights
    rows = (row for row in read_table("training.csv") if fnmatchcase(name, row["model"]))
    # A pattern's `*` would fit folders of a file's path.
    same = (row for row in rows if row["model"].count("/") == name.count("/"))
    row = next(same, {"training_data": "", "samples_seen": ""})
    found = {"training_data": row["training_data"], "samples_seen": int(row["samples_seen"] or 0)}
    return {key: value for key, value in found.items() if value}


def released_model(weights_sha256: str | None) -> str | None:
    """Return the name of the released checkpoint whose file has a SHA-256, or None."""
    for row in read_table("released.csv"):
        if row["sha256"] == weights_sha256:
            return row["model"]
    return None


@cache
def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a table of this package."""
    return [*csv.DictReader(files(__name__).joinpath(name).read_text("utf-8").splitlines())]
