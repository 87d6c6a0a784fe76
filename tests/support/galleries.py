"""Results measured here and now, their galleries, and pictures as pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.rows import write_result

from cosmos_eval.reporting.gallery import collect
from cosmos_eval.reporting.gallery.records import KINDS, Example, Gallery, Picture, pictures_of
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.store import read_result, read_samples, result_paths
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.types import RunOptions


def pixels(picture: Picture, mode: str = "RGBA") -> NDArray[np.uint8]:
    """A picture decoded, (H, W, channels); its size and type are those that it states."""
    with Image.open(io.BytesIO(picture.content)) as image:
        assert (image.width, image.height) == (picture.width, picture.height)
        assert picture.media_type == Image.MIME[str(image.format)]
        return np.asarray(image.convert(mode))


def measure(output: Path, model: str, *datasets: Path | str, **options: Any) -> list[Path]:
    """Measure a model on data sets; the files of all results in `output`."""
    weights = options.pop("weights", "teacher")
    plan = make_plan(
        datasets=list(map(str, datasets)),
        models=[model],
        options=RunOptions(device="cpu", workers=0, **options),
        weights=weights,
    )
    list(run_all(plan, output=output))
    return result_paths(output)


def without_content_hashes(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write results as older versions did, without a hash of the measured files, into a folder."""
    older_paths = []
    for path in paths:
        row = read_result(path)
        hashes = dict(row.provenance["hashes"])
        del hashes["content"]
        older_row = replace(row, provenance={**row.provenance, "hashes": hashes})
        older_paths.append(write_result(folder, older_row, read_samples(path)))
    return older_paths


def gallery(
    paths: Sequence[Path], *datasets: Path, predictions: Path | None = None, **options: Any
) -> Gallery:
    """The gallery of results, of which `datasets` describe users' data; `options` are the run's."""
    run = RunOptions(device="cpu", workers=0, **options)
    return collect(
        read_checked(paths), run, datasets=list(map(str, datasets)), predictions=predictions
    )


def examples_of(gallery: Gallery) -> list[Example]:
    """All examples of a gallery."""
    return [example for kind in KINDS for example in getattr(gallery, kind)]


def bytes_of(examples: Iterable[Example]) -> int:
    """Bytes of the pictures of examples, each counted once."""
    return sum({p.content: len(p.content) for e in examples for p in pictures_of(e)}.values())


def all_of_class_0(names: Sequence[str], protocol: Any) -> dict[str, NDArray[Any]]:
    """Return samples of segmented images, each with ten pixels that have class 0 and were predicted
    as class 0."""
    n_images, n_classes = len(names), len(protocol.class_names)
    return {
        "name": np.array(names),
        "classes": np.array(protocol.class_names),
        "groups": np.array([], np.str_),
        "members": np.zeros((0, n_classes), bool),
        "image": np.arange(n_images, dtype=np.int32),
        "pair": np.zeros(n_images, np.int32),
        "pixels": np.full(n_images, 10),
    }
