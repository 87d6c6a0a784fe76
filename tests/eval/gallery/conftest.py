"""Results measured here and now, and pictures as pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.report.gallery import Gallery, Picture, collect
from cosmos_eval.results.store import result_paths
from cosmos_eval.runner.plan import Machine, make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.types import RunOptions


def pixels(picture: Picture, mode: str = "RGBA") -> NDArray[np.uint8]:
    """A picture decoded, (H, W, channels); its size and type are those that it states."""
    with Image.open(io.BytesIO(picture.content)) as image:
        assert (image.width, image.height) == (picture.width, picture.height)
        assert picture.media_type == Image.MIME[str(image.format)]
        return np.asarray(image.convert(mode))


@pytest.fixture(name="pixels")
def pixels_fixture() -> Callable[..., NDArray[np.uint8]]:
    return pixels


def measure(
    output: Path, datasets: Sequence[str], models: Sequence[str], **options: Any
) -> list[Path]:
    """Measure models on data sets; the files of all results in `output`."""
    how = {key: options.pop(key) for key in ("arch", "weights") if key in options}
    plan = make_plan(
        datasets=datasets,
        models=models,
        options=RunOptions(workers=0, **options),
        machine=Machine(device="cpu"),
        **how,
    )
    list(run_all(plan, output=output))
    return result_paths(output)


@pytest.fixture(name="measure")
def measure_fixture() -> Callable[..., list[Path]]:
    return measure


def gallery(paths: Sequence[Path], **options: Any) -> Gallery:
    """The gallery of results; `options` are `collect`'s and RunOptions'."""
    named = ("datasets", "predictions", "budget")
    own = {key: options.pop(key) for key in named if key in options}
    return collect(paths, RunOptions(workers=0, **options), device="cpu", **own)


@pytest.fixture(name="gallery")
def gallery_fixture() -> Callable[..., Gallery]:
    return gallery
