"""Pretrained weights at the start of a training. `openclip:ARCH/TAG`, `hf:ORG/NAME[@REVISION]`, the
path of a file or folder, or a bundled model name them, and every key is accounted for."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import open_clip
import safetensors.torch
import torch
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from torch import Tensor, nn

from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import CheckpointError, read_checkpoint
from cosmos_core.model.transformers_names import tensor_names, to_openclip
from cosmos_core.utils.text import first_of

Tower = Literal["image", "text"]
State = dict[str, Tensor]

_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
_CROSS_ATTENTION = "visual.attn_cross_pool."  # of COSMOS, no part of CLIP's tower
_RESIZED = {  # bicubic over a square grid, and linear over positions, as OpenCLIP resizes them
    "visual.positional_embedding": resize_pos_embed,
    "positional_embedding": resize_text_pos_embed,
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_PROJECTIONS, _LAST_NORMS = ("visual.proj", "text_projection"), ("visual.ln_post.", "ln_final.")
# What shapes show, or what may differ: all other options of a tower must be the source's.
_SHOWN = {"image_size", "context_length", "vocab_size", "width", "layers", "mlp_ratio"}
_SHOWN |= {"patch_size", "patch_dropout", "output_tokens", "hf_tokenizer_name", "tokenizer_kwargs"}
_BUNDLED = Path(__file__).parents[1] / "bundled"


class Pretrained(NamedTuple):
    """Weights under OpenCLIP's names, and the configuration of their model, where it is stated."""

    state: State
    config: Mapping[str, Any] | None


class Audit(NamedTuple):
    """The keys of model and source: loaded as they are, positions that were resized, those that
    only the model has, which start at random, and those that only the source has. `sha256` is that
    of all tensors of the source."""

    loaded: list[str]
    resized: list[str]
    new: list[str]
    left_over: list[str]
    sha256: str

    def summary(self, source: str) -> str:
        """Return the numbers in one line."""
        counts = (f"{len(keys)} {name.replace('_', ' ')}" for name, keys in self.keys().items())
        return f"model.init={source}: {', '.join(counts)} keys"

    def keys(self) -> dict[str, list[str]]:
        return {name: keys for name, keys in self._asdict().items() if name != "sha256"}


def tower_of(key: str) -> Tower | None:
    """Return the tower of CLIP that a parameter belongs to; None for scales and added modules."""
    if key.startswith("visual.") and not key.startswith(_CROSS_ATTENTION):
        return "image"
    return "text" if key.startswith(_TEXT) else None


def freeze(model: nn.Module, tower: str) -> None:
    """Stop the training of a tower, "image" or "text", with its projection."""
    for key, parameter in model.named_parameters():
        if tower_of(key) == tower:
            parameter.requires_grad_(False)


def layers_above(keys: Iterable[str]) -> dict[str, int]:
    """Return how many layers of its tower are above each parameter, for layer-wise learning rates
    (BEiT, arXiv 2106.08254), in timm's layers: 0 for a projection and for what belongs to no tower,
    1 for the last block and the norm after it, and one more than there are blocks for embeddings
    and `ln_pre`."""
    blocks = {key: int(found[1]) for key in keys if (found := _BLOCK.search(key))}
    depths: dict[Tower | None, int] = {}
    for key, block in blocks.items():
        depths[tower_of(key)] = max(block + 1, depths.get(tower_of(key), 0))

    def above(key: str) -> int:
        if tower_of(key) is None or key.startswith(_PROJECTIONS):
            return 0
        if key.startswith(_LAST_NORMS):
            return 1
        return depths[tower_of(key)] - blocks.get(key, -1)

    return {key: above(key) for key in keys}


def initialise(model: nn.Module, architecture: Any, source: str, *, partial: bool) -> Audit:
    """Load the weights that `source` names. Raises ValueError, one line, where they cannot be read,
    are not finite, were trained with other options than `architecture`'s, or, unless `partial`, do
    not cover a tower of the model exactly."""
    with torch.random.fork_rng(devices=[]):  # OpenCLIP draws weights before it loads some
        found = read_pretrained(source)
    own, state = model.state_dict(), dict(found.state)
    digest = _tensors_sha256(state)
    resized = [key for key in _RESIZED if _resize(key, state, model, own)]
    fits = {key for key in own if key in state and state[key].shape == own[key].shape}
    new = [key for key in own if key not in fits]
    left_over = [key for key in state if key not in fits]
    loaded = [key for key in own if key in fits and key not in resized]
    covered = {tower for key in loaded if (tower := tower_of(key))}
    gaps = [key for key in (*new, *left_over) if tower_of(key) and not partial]
    if gaps or not covered:
        odd = [key for key in dict.fromkeys(gaps or new) if tower_of(key)]
        towers = " and ".join(sorted({str(tower_of(key)) for key in odd}))
        named = first_of([_described(key, own, state) for key in odd])
        remedy = "; --set model.partial=true loads what fits" if covered else ""
        raise ValueError(f"model.init={source} does not fit the {towers} tower: {named}{remedy}")
    _require_same_options(found.config, model_config(architecture), covered, source)
    if odd := [key for key in own if key in fits and not state[key].isfinite().all()]:
        raise ValueError(f"model.init={source} has values that are not finite: {first_of(odd)}")
    model.load_state_dict({**own, **{key: state[key] for key in fits}})
    return Audit(loaded, resized, new, left_over, digest)


def _described(key: str, own: State, state: State) -> str:
    if key in own and key in state:
        ours, theirs = ("x".join(map(str, one[key].shape)) for one in (own, state))
        return f"{key} ({theirs} instead of {ours})"
    return f"{key} ({'missing' if key in own else 'left over'})"


def _resize(key: str, state: State, model: nn.Module, own: State) -> bool:
    """Resize positions to the number of the model's, where width and grid allow it."""
    theirs, ours = state.get(key), own[key]
    if theirs is None or theirs.ndim != 2 or theirs.shape == ours.shape:
        return False
    square = (
        key != "visual.positional_embedding" or math.isqrt(len(theirs) - 1) ** 2 == len(theirs) - 1
    )
    if theirs.shape[1] != ours.shape[1] or not square:
        return False
    state[key] = theirs.float()
    _RESIZED[key](state, model)
    return True


def _require_same_options(
    theirs: Mapping[str, Any] | None, ours: Mapping[str, Any], covered: set[Tower], source: str
) -> None:
    """Raise ValueError for options of the covered towers that no shape shows, such as heads."""
    if theirs is None:
        return
    stated, wanted = (_options(config, covered) for config in (theirs, ours))
    if different := [key for key in wanted if wanted[key] != stated[key]]:
        named = first_of([f"{key}={stated[key]}, not {wanted[key]}" for key in different])
        raise ValueError(f"model.init={source} was trained with {named}; set architecture to it")


def _options(config: Mapping[str, Any], covered: set[Tower]) -> dict[str, Any]:
    defaults = {"image": open_clip.CLIPVisionCfg(), "text": open_clip.CLIPTextCfg()}
    keys = {"image": "vision_cfg", "text": "text_cfg"}
    found: dict[str, Any] = {"quick_gelu": bool(config.get("quick_gelu", False))}
    for tower in sorted(covered):
        options = {**asdict(defaults[tower]), **config[keys[tower]]}
        found |= {f"{keys[tower]}.{k}": v for k, v in options.items() if k not in _SHOWN}
    return found


def read_pretrained(source: str) -> Pretrained:
    """Read weights by their name. Raises ValueError, one line, for all that can go wrong."""
    from cosmos_core.utils.hub import limit_waiting

    kind, separator, name = source.partition(":")
    limit_waiting()
    try:
        if separator and kind == "openclip":
            return _openclip(name)
        if separator and kind == "hf":
            return _hugging_face(name)
        return _file(Path(source))
    except ValueError as error:
        raise ValueError(f"model.init={source}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # of OpenCLIP, the hub's client, or unpickling
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"model.init={source} cannot be loaded: {reason}") from error


def _openclip(name: str) -> Pretrained:
    architecture, _, tag = name.partition("/")
    config = model_config(architecture)
    stated = open_clip.get_pretrained_cfg(architecture, tag)
    if not stated and not Path(tag).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise ValueError(f"{tag!r} is no file and no weights of {architecture}: {tags}")
    quick = bool(config.get("quick_gelu", False) or stated.get("quick_gelu", False))
    model = open_clip.create_model(
        architecture, tag, require_pretrained=True, force_quick_gelu=quick
    )
    return Pretrained(_plain(model.state_dict()), {**config, "quick_gelu": quick})


def _hugging_face(name: str) -> Pretrained:
    from huggingface_hub import snapshot_download
    from transformers import CLIPConfig

    repository, _, revision = name.partition("@")
    folder = Path(name)
    if not folder.is_dir():
        patterns = ["*.json", "*.safetensors"]
        found = snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        folder = Path(found)
    described, parts = folder / open_clip.constants.HF_CONFIG_NAME, folder.glob("*.safetensors")
    if described.is_file():
        config = json.loads(described.read_text(encoding="utf-8"))["model_cfg"]
        return Pretrained(_plain(_load(folder / open_clip.constants.HF_SAFE_WEIGHTS_NAME)), config)
    hf: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
    if hf.model_type != "clip":
        raise ValueError(f"of transformers' models only CLIP fits, not {hf.model_type}")
    vision, text = hf.vision_config, hf.text_config
    names = tensor_names(vision.num_hidden_layers, text.num_hidden_layers)
    state = {key: value for part in sorted(parts) for key, value in _load(part).items()}
    towers = {
        "vision_cfg": {"head_width": vision.hidden_size // vision.num_attention_heads},
        "text_cfg": {"heads": text.num_attention_heads},
    }
    quick = vision.hidden_act == "quick_gelu"
    return Pretrained(to_openclip(state, names), {**towers, "quick_gelu": quick})


def _file(path: Path) -> Pretrained:
    """Read the teacher of a checkpoint of cosmos-train, or published; else a state of OpenCLIP."""
    bundled = _BUNDLED / f"{path}.safetensors"
    path = bundled if bundled.is_file() else path
    if not path.is_file():
        raise ValueError("no such file or bundled model; forms: openclip:ARCH/TAG, hf:ORG/NAME")
    try:
        read = read_checkpoint(path)
    except CheckpointError as error:
        found = _load(path)
        state = found.get("state_dict", found)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise error
        return Pretrained(_plain(state), None)
    weights = read.weights.get("teacher") or read.weights["student"]
    return Pretrained(weights, read.architecture)


def _load(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _plain(state: Mapping[str, Tensor]) -> State:
    """Remove the prefixes of DistributedDataParallel and of OpenCLIP's separate text towers."""
    short = {key.removeprefix("module.").removeprefix("text."): v for key, v in state.items()}
    return {key: value for key, value in short.items() if key != "attn_mask"}


def _tensors_sha256(state: State) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(f"{key} {tuple(state[key].shape)} ".encode())
        digest.update(state[key].float().contiguous().numpy().tobytes())
    return digest.hexdigest()
