"""Pretrained weights at the start of a training.

The option `model.init` names their source: `openclip:ARCH/TAG`, `hf:ORG/NAME[@REVISION]`, the path
of a file or folder, or the name of a bundled model. `Audit` states for every key of the source and
of the model whether it was loaded.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
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

_TEXT_PREFIXES = (
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
)
# The prefix of COSMOS's cross-attention module, which does not belong to CLIP's image tower.
_CROSS_ATTENTION = "visual.attn_cross_pool."
# Position embeddings that OpenCLIP can resize: bicubic over a square grid, linear over a text.
_RESIZE_FUNCTIONS = {
    "visual.positional_embedding": resize_pos_embed,
    "positional_embedding": resize_text_pos_embed,
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_PROJECTIONS = ("visual.proj", "text_projection")
_LAST_NORMS = ("visual.ln_post.", "ln_final.")
# Options of a tower that are not compared: shapes of weights show them, or they may differ.
_NOT_COMPARED = {
    "image_size",
    "context_length",
    "vocab_size",
    "width",
    "layers",
    "mlp_ratio",
    "patch_size",
    "patch_dropout",
    "output_tokens",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
}
_BUNDLED_FOLDER = Path(__file__).parents[1] / "bundled"


class Pretrained(NamedTuple):
    """Pretrained weights, and the configuration of their model."""

    # Tensors under OpenCLIP's names.
    state: State
    # The configuration of their model in OpenCLIP's form, or None if the source does not state it.
    config: Mapping[str, Any] | None


class Audit(NamedTuple):
    """A record of what `initialise` did with each key of the model and of the source."""

    # Keys that were loaded as they are.
    loaded: list[str]
    # Keys of position embeddings that were resized to the model's size, and loaded.
    resized: list[str]
    # Keys that only the model has, or that have another shape there. They start at random.
    new: list[str]
    # Keys that only the source has, or that have another shape there.
    left_over: list[str]
    # The SHA-256 of all tensors of the source.
    sha256: str

    def summary(self, source: str) -> str:
        """Return the number of keys of each kind in one line.

        For example, "model.init=x.pt: 152 loaded, 1 resized, 8 new, 0 left over keys".
        """
        counts = [f"{len(keys)} {kind.replace('_', ' ')}" for kind, keys in self.keys().items()]
        return f"model.init={source}: {', '.join(counts)} keys"

    def keys(self) -> dict[str, list[str]]:
        """Return the lists of keys under the names "loaded", "resized", "new" and "left_over"."""
        fields = self._asdict()
        del fields["sha256"]
        return fields


def tower_of(key: str) -> Tower | None:
    """Return the tower, "image" or "text", to which a key of CLIP belongs.

    Return None for logit scales and for modules that methods such as COSMOS add. For example,
    "visual.conv1.weight" belongs to "image", and "token_embedding.weight" to "text".
    """
    if key.startswith("visual.") and not key.startswith(_CROSS_ATTENTION):
        return "image"
    if key.startswith(_TEXT_PREFIXES):
        return "text"
    return None


def freeze(model: nn.Module, tower: str) -> None:
    """Exclude a tower, "image" or "text", and its projection from training."""
    for key, parameter in model.named_parameters():
        if tower_of(key) == tower:
            parameter.requires_grad_(False)


def layers_above(keys: Iterable[str]) -> dict[str, int]:
    """Return, for the key of each parameter, how many layers of its tower follow it.

    Layer-wise learning rates depend on this number (BEiT, arXiv 2106.08254). Layers are counted as
    in timm:

    - 0 for projections, and for parameters outside the towers
    - 1 for the last block and for the norm after it, 2 for the block before it, and so on
    - the number of blocks plus one for embeddings and `ln_pre`
    """
    keys = list(keys)

    # Find the number of each parameter's block, and the number of blocks of each tower.
    block_numbers: dict[str, int] = {}
    tower_depths: dict[Tower | None, int] = {}
    for key in keys:
        block_match = _BLOCK.search(key)
        if block_match:
            block_numbers[key] = int(block_match[1])
            depth = tower_depths.get(tower_of(key), 0)
            tower_depths[tower_of(key)] = max(depth, block_numbers[key] + 1)

    layers = {}
    for key in keys:
        if tower_of(key) is None or key.startswith(_PROJECTIONS):
            layers[key] = 0
        elif key.startswith(_LAST_NORMS):
            layers[key] = 1
        elif key in block_numbers:
            layers[key] = tower_depths[tower_of(key)] - block_numbers[key]
        else:
            layers[key] = tower_depths[tower_of(key)] + 1
    return layers


def initialise(model: nn.Module, architecture: Any, source: str, *, partial: bool) -> Audit:
    """Load pretrained weights into a model, and return which keys were loaded.

    At least one tower must be loaded. Without `partial` the weights of a tower must have exactly
    the keys and shapes of the model's tower. With `partial` those tensors are loaded that fit.
    Position embeddings are resized.

    Args:
        model: The model whose weights are replaced.
        architecture: The architecture of the model.
        source: The value of `model.init`: `openclip:ARCH/TAG`, `hf:ORG/NAME`, the path of a file,
            or the name of a bundled model.
        partial: True if a tower may be loaded partly.

    Raises:
        ValueError: If the weights cannot be read, are not finite, do not fit the model, or were
            trained with other options than `architecture` has, such as another number of heads.
    """
    # OpenCLIP draws random weights before it loads others. They must not change later draws.
    with torch.random.fork_rng(devices=[]):
        pretrained = read_pretrained(source)

    # Compare the keys and shapes of the source with the model's.
    model_state = model.state_dict()
    source_state = dict(pretrained.state)
    source_sha256 = _tensors_sha256(source_state)
    resized_keys = _resize_positions(source_state, model, model_state)
    audit = _compare_keys(model_state, source_state, resized_keys, source_sha256)
    _require_towers(audit, model_state, source_state, source, partial=partial)
    loaded_towers = _towers(audit.loaded)
    model_architecture = model_config(architecture)
    _require_same_options(pretrained.config, model_architecture, loaded_towers, source)
    _require_finite(source_state, model_state, audit, source)

    for key in (*audit.loaded, *audit.resized):
        model_state[key] = source_state[key]
    model.load_state_dict(model_state)
    return audit


def _resize_positions(source_state: State, model: nn.Module, model_state: State) -> list[str]:
    """Resize the position embeddings in `source_state`, in place, to the sizes of the model.

    Return the keys of the embeddings that were resized. Embeddings stay as they are if they have
    the size of the model's, if their width is another, or if they belong to patches that do not
    form a square.
    """
    resized_keys = []
    for key, resize in _RESIZE_FUNCTIONS.items():
        source_positions, model_positions = source_state.get(key), model_state[key]
        if source_positions is None or source_positions.ndim != 2:
            continue
        if source_positions.shape == model_positions.shape:
            continue
        if source_positions.shape[1] != model_positions.shape[1]:
            continue
        if key == "visual.positional_embedding":
            n_patches = len(source_positions) - 1  # without the class token
            if math.isqrt(n_patches) ** 2 != n_patches:
                continue
        source_state[key] = source_positions.float()
        # OpenCLIP's function replaces the embedding in the state.
        resize(source_state, model)
        resized_keys.append(key)
    return resized_keys


def _compare_keys(
    model_state: State, source_state: State, resized_keys: Sequence[str], source_sha256: str
) -> Audit:
    """Find out which keys of a model can be loaded from the source of pretrained weights.

    A tensor can be loaded if the source has its key with the same shape. `resized_keys` are the
    keys of position embeddings that have been resized to the model's shape before.
    """
    loaded_keys, new_keys = [], []
    for key, parameter in model_state.items():
        if key not in source_state or source_state[key].shape != parameter.shape:
            new_keys.append(key)
        elif key not in resized_keys:
            loaded_keys.append(key)
    left_over_keys = []
    for key, tensor in source_state.items():
        if key not in model_state or model_state[key].shape != tensor.shape:
            left_over_keys.append(key)
    return Audit(
        loaded=loaded_keys,
        resized=list(resized_keys),
        new=new_keys,
        left_over=left_over_keys,
        sha256=source_sha256,
    )


def _towers(keys: Iterable[str]) -> set[Tower]:
    """Return the towers, "image" and "text", to which at least one key belongs."""
    towers = {tower_of(key) for key in keys}
    return {tower for tower in towers if tower is not None}


def _require_towers(
    audit: Audit, model_state: State, source_state: State, source: str, *, partial: bool
) -> None:
    """Raise ValueError if no tower is loaded, or if a tower is loaded only partly.

    With `partial` a tower may be loaded partly. `source` names the weights in the message.
    """
    any_tower_loaded = bool(_towers(audit.loaded))
    # Keys with another shape are both new and left over: the dictionary holds each of them once.
    unmatched_keys = list(dict.fromkeys([*audit.new, *audit.left_over]))
    unmatched_keys = [key for key in unmatched_keys if tower_of(key)]
    if any_tower_loaded and (partial or not unmatched_keys):
        return

    # Describe the first keys that do not fit.
    if partial:
        unmatched_keys = [key for key in audit.new if tower_of(key)]
    towers = " and ".join(sorted(_towers(unmatched_keys)))
    descriptions = [_describe_mismatch(key, model_state, source_state) for key in unmatched_keys]
    remedy = "; --set model.partial=true loads what fits" if any_tower_loaded else ""
    raise ValueError(
        f"model.init={source} does not fit the {towers} tower: {first_of(descriptions)}{remedy}"
    )


def _describe_mismatch(key: str, model_state: State, source_state: State) -> str:
    """Return a key and the reason why it cannot be loaded.

    For example, "visual.proj (missing)" or "visual.proj (64x32 instead of 64x16)".
    """
    if key not in source_state:
        return f"{key} (missing)"
    if key not in model_state:
        return f"{key} (left over)"
    source_shape = "x".join(str(size) for size in source_state[key].shape)
    model_shape = "x".join(str(size) for size in model_state[key].shape)
    return f"{key} ({source_shape} instead of {model_shape})"


def _require_same_options(
    source_config: Mapping[str, Any] | None,
    model_architecture: Mapping[str, Any],
    loaded_towers: set[Tower],
    source: str,
) -> None:
    """Raise ValueError if the loaded towers were trained with other options than the model has.

    Compared are options that do not show in the shapes of tensors, such as the number of heads or
    the activation. Nothing is compared if the source does not state its configuration.
    """
    if source_config is None:
        return
    source_values = _options_to_compare(source_config, loaded_towers)
    model_values = _options_to_compare(model_architecture, loaded_towers)
    differences = []
    for name, model_value in model_values.items():
        if source_values[name] != model_value:
            differences.append(f"{name}={source_values[name]}, not {model_value}")
    if differences:
        raise ValueError(
            f"model.init={source} was trained with {first_of(differences)}; set architecture to it"
        )


def _options_to_compare(config: Mapping[str, Any], towers: set[Tower]) -> dict[str, Any]:
    """Return the options of towers that do not show in the shapes of tensors, by their full names.

    Options that `config` does not state have OpenCLIP's defaults. For example, the result holds
    "quick_gelu" and, for the text tower, "text_cfg.heads".
    """
    options: dict[str, Any] = {"quick_gelu": bool(config.get("quick_gelu", False))}
    for tower in sorted(towers):
        if tower == "image":
            section, defaults = "vision_cfg", asdict(open_clip.CLIPVisionCfg())
        else:
            section, defaults = "text_cfg", asdict(open_clip.CLIPTextCfg())
        tower_options = defaults | dict(config[section])
        for name, value in tower_options.items():
            if name not in _NOT_COMPARED:
                options[f"{section}.{name}"] = value
    return options


def _require_finite(source_state: State, model_state: State, audit: Audit, source: str) -> None:
    """Raise ValueError if a tensor that will be loaded has NaN or infinite values."""
    keys_to_load = [key for key in model_state if key not in audit.new]
    infinite_keys = [key for key in keys_to_load if not source_state[key].isfinite().all()]
    if infinite_keys:
        names = first_of(infinite_keys)
        raise ValueError(f"model.init={source} has values that are not finite: {names}")


def read_pretrained(source: str) -> Pretrained:
    """Read the pretrained weights that `source` names.

    `source` is `openclip:ARCH/TAG`, `hf:ORG/NAME[@REVISION]`, the path of a file, or the name of a
    bundled model. Raises ValueError, with a message of one line, for every failure.
    """
    from cosmos_core.utils.hub import limit_waiting

    scheme, separator, name = source.partition(":")
    limit_waiting()
    try:
        if separator and scheme == "openclip":
            return _read_openclip(name)
        if separator and scheme == "hf":
            return _read_hugging_face(name)
        return _read_file(Path(source))
    except ValueError as error:
        raise ValueError(f"model.init={source}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # OpenCLIP, the hub's client and unpickling raise many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"model.init={source} cannot be loaded: {reason}") from error


def _read_openclip(name: str) -> Pretrained:
    """Read weights of OpenCLIP, which are downloaded if needed.

    `name` is ARCH/TAG, such as "ViT-B-16/openai", or ARCH/FILE.
    """
    architecture, _, tag = name.partition("/")
    config = model_config(architecture)
    tag_config = open_clip.get_pretrained_cfg(architecture, tag)
    if not tag_config and not Path(tag).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise ValueError(f"{tag!r} is no file and no weights of {architecture}: {tags}")
    # Some weights need another activation than the architecture of this name has.
    config["quick_gelu"] = bool(config.get("quick_gelu") or tag_config.get("quick_gelu"))
    model = open_clip.create_model(
        architecture, tag, require_pretrained=True, force_quick_gelu=config["quick_gelu"]
    )
    return Pretrained(_without_prefixes(model.state_dict()), config)


def _read_hugging_face(name: str) -> Pretrained:
    """Read a CLIP model of OpenCLIP or transformers from the Hugging Face Hub or from a folder.

    `name` is ORG/NAME, ORG/NAME@REVISION, or the path of a folder.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        repository, _, revision = name.partition("@")
        patterns = ["*.json", "*.safetensors"]
        folder = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
    openclip_config = folder / open_clip.constants.HF_CONFIG_NAME
    if openclip_config.is_file():
        config = json.loads(openclip_config.read_text(encoding="utf-8"))["model_cfg"]
        state = _load_file(folder / open_clip.constants.HF_SAFE_WEIGHTS_NAME)
        return Pretrained(_without_prefixes(state), config)
    return _read_transformers(folder)


def _read_transformers(folder: Path) -> Pretrained:
    """Read a CLIP model of transformers from a folder, under OpenCLIP's names."""
    from transformers import CLIPConfig

    clip_config: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
    if clip_config.model_type != "clip":
        raise ValueError(f"of transformers' models only CLIP fits, not {clip_config.model_type}")
    vision, text = clip_config.vision_config, clip_config.text_config
    state = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(_load_file(path))
    config = {
        "vision_cfg": {"head_width": vision.hidden_size // vision.num_attention_heads},
        "text_cfg": {"heads": text.num_attention_heads},
        "quick_gelu": vision.hidden_act == "quick_gelu",
    }
    names = tensor_names(vision.num_hidden_layers, text.num_hidden_layers)
    return Pretrained(to_openclip(state, names), config)


def _read_file(path: Path) -> Pretrained:
    """Read weights from a file.

    `path` is a checkpoint of cosmos-train or of the published COSMOS, from which the teacher is
    read, or the student if it has no teacher. Otherwise it is a state dict of OpenCLIP's CLIP. It
    may also be the name of a model that comes with this package.
    """
    bundled_path = _BUNDLED_FOLDER / f"{path}.safetensors"
    if bundled_path.is_file():
        path = bundled_path
    if not path.is_file():
        raise ValueError("no such file or bundled model; forms: openclip:ARCH/TAG, hf:ORG/NAME")
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError:
        content = _load_file(path)
        state = content.get("state_dict", content)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise
        return Pretrained(_without_prefixes(state), None)
    weights = checkpoint.weights.get("teacher") or checkpoint.weights["student"]
    return Pretrained(weights, checkpoint.architecture)


def _load_file(path: Path) -> dict[str, Any]:
    """Load a safetensors file, or any other file that torch saved, onto the CPU."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _without_prefixes(state: Mapping[str, Tensor]) -> State:
    """Rename the keys of a state dict to the keys that `open_clip.CLIP` has.

    DistributedDataParallel adds the prefix "module.", and OpenCLIP's models with a separate text
    tower add "text.". For example, "module.text.ln_final.bias" becomes "ln_final.bias". The
    attention mask is left out, because it is a constant.
    """
    tensors = {}
    for key, tensor in state.items():
        openclip_key = key.removeprefix("module.").removeprefix("text.")
        if openclip_key != "attn_mask":
            tensors[openclip_key] = tensor
    return tensors


def _tensors_sha256(state: State) -> str:
    """Return the SHA-256 of the keys, shapes and float32 values of a state dict.

    It does not depend on the order of the keys.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(f"{key} {tuple(state[key].shape)} ".encode())
        digest.update(state[key].float().contiguous().numpy().tobytes())
    return digest.hexdigest()
