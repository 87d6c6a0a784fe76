"""Results measured here and now, and pictures as pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval import models
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.report.gallery import collect
from cosmos_eval.report.gallery.records import Gallery, Picture
from cosmos_eval.results.store import result_paths
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.types import ModelSpec, RunOptions


def pixels(picture: Picture, mode: str = "RGBA") -> NDArray[np.uint8]:
    """A picture decoded, (H, W, channels); its size and type are those that it states."""
    with Image.open(io.BytesIO(picture.content)) as image:
        assert (image.width, image.height) == (picture.width, picture.height)
        assert picture.media_type == Image.MIME[str(image.format)]
        return np.asarray(image.convert(mode))


@pytest.fixture(autouse=True, scope="session")
def random_models_are_loaded_once() -> Iterator[None]:
    """Building a model and describing its tokenizer takes most of the time of these tests."""
    load, loaded = models.load_encoder, {}

    def load_once(spec: ModelSpec, **options: Any) -> Encoder:
        if not spec.text.endswith("/random"):
            return load(spec, **options)
        key = (spec, tuple(sorted((name, str(value)) for name, value in options.items())))
        if key not in loaded:
            loaded[key] = load(spec, **options)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_encoder", load_once)
        yield


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
        options=RunOptions(device="cpu", workers=0, **options),
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
