"""Small models and small data sets for the tests of cosmos_eval."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from support.hub import Hub, serving

from cosmos_eval.cli.app import main
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import EncoderInfo

PARITY = Path(__file__).parents[1] / "parity"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session", autouse=True)
def vocabularies_read_once() -> Iterator[None]:
    """Let tokenizers of the same arguments copy one that has read its vocabulary, which takes a
    fifth of a second, and is otherwise done for every model."""
    read, first = open_clip.SimpleTokenizer.__init__, dict[str, dict[str, Any]]()

    def copy_first(self: open_clip.SimpleTokenizer, *args: Any, **options: Any) -> None:
        key = repr((args, sorted(options.items())))
        if key not in first:
            read(self, *args, **options)
            first[key] = {name: copy(value) for name, value in vars(self).items()}
        vars(self).update({name: copy(value) for name, value in first[key].items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.SimpleTokenizer, "__init__", copy_first)
        yield


@pytest.fixture(scope="session")
def tiny_archs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """OpenCLIP architectures that load at once: a causal text tower, others, a ResNet."""
    text, vision = TINY["text_cfg"], TINY["vision_cfg"]
    variants = {
        "tiny": TINY,
        "tiny-bidirectional": {**TINY, "text_cfg": {**text, "no_causal_mask": True}},
        "tiny-last-token": {**TINY, "text_cfg": {**text, "pool_type": "last"}},
        "tiny-custom": {**TINY, "custom_text": True},
        "tiny-resnet": {**TINY, "vision_cfg": {**vision, "layers": [1, 1, 1, 1], "width": 8}},
    }
    folder = tmp_path_factory.mktemp("archs")
    for name, config in variants.items():
        (folder / f"cosmos-eval-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return {name: f"cosmos-eval-{name}" for name in variants}


@pytest.fixture(scope="session")
def tiny_encoder(tiny_archs: dict[str, str]) -> ClipEncoder:
    return load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny']}/random"))


@pytest.fixture(scope="session")
def cosmos() -> ClipEncoder:
    """The recorded checkpoint: patches of 16, trained at 224 px."""
    arch = str(PARITY / "model_config.json")
    return load_encoder(parse_model_spec(f"cosmos:{PARITY / 'checkpoint.pt'}", arch=arch))


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourEncoder:
    """Sees the mean colour of an image and the colour words of a text (all, if it names none)."""

    info = EncoderInfo("colours", "colours", None, "0" * 64, False, "fp32", "cpu")
    preprocessing = MappingProxyType({"size": None})
    tokenizer = MappingProxyType({"words": list(COLOURS)})
    trims_text = False

    def transform(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        named = torch.tensor([[int(colour in text) for colour in COLOURS] for text in texts])
        return torch.where(named.any(dim=1, keepdim=True), named, 1)

    def overlong(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(texts), dtype=torch.bool)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)), dim=1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(tokens.float(), dim=1)


@pytest.fixture
def colour_encoder() -> ColourEncoder:
    return ColourEncoder()


def save_colour(path: Path, colour: str, mode: str = "RGB") -> Path:
    """Write an image of one colour, making folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), COLOURS[colour]).convert(mode).save(path)
    return path


@pytest.fixture(name="save_colour", scope="session")
def save_colour_fixture():
    return save_colour


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """Run `cosmos-eval` in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub, with an empty cache, whose client does not wait before it tries again. The
    constants are what the client makes of HF_ENDPOINT and HF_HOME when it is imported."""
    with serving() as hub:
        constants = huggingface_hub.constants
        path = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + path)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub
