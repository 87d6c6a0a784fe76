"""Bundled models and models with random weights, each loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from cosmos_eval import models
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import ModelSpec


@pytest.fixture(autouse=True, scope="session")
def models_are_loaded_once() -> Iterator[None]:
    """Building a model and describing its tokenizer takes most of the time of these tests."""
    load, loaded = models.load_encoder, {}

    def load_once(spec: ModelSpec, **options: Any) -> Encoder:
        if not spec.text.endswith("/random") and not spec.text.startswith("scenes-"):
            return load(spec, **options)
        key = (repr(spec), tuple(sorted((name, str(value)) for name, value in options.items())))
        if key not in loaded:
            loaded[key] = load(spec, **options)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_encoder", load_once)
        yield


@pytest.fixture
def model(tiny_archs: dict[str, str]) -> str:
    return f"openclip:{tiny_archs['tiny']}/random"


@pytest.fixture
def checkpoint(model: str, tmp_path: Path) -> Path:
    """The weights of the model in a file."""
    path = tmp_path / "model.safetensors"
    encoder: Any = models.load_encoder(parse_model_spec(model))
    safetensors.torch.save_file(encoder.model.state_dict(), path)
    return path
