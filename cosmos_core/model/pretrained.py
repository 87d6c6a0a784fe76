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
from cosmos_core.utils.extras import missing_package
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

    Return None for logit scales and for modules that methods such as COSMOS add.

    Example::

        "visual.conv1.weight" -> "image"
        "token_embedding.weight" -> "text"
        "logit_scale" -> None
    """
    if key.startswith("visual.") and not key.startswith(_CROSS_ATTENTION):
        return "image"
    if key.startswith(_TEXT_PREFIXES):
        return "text"
    return None


def freeze(model: nn.Module, tower: str, unlocked_groups: int = 0) -> list[nn.Parameter]:
    """Exclude a tower and its projection, or their first layers, from training.

    Args:
        model: The model, whose parameters are changed in place.
        tower: "image", "text", or "" to exclude nothing.
        unlocked_groups: The number of the last groups of the tower that are still trained. Groups
            are the layers that `layers_above` counts, as in OpenCLIP's `lock_image_tower` and
            `lock_text_tower`: 1 is the projection, 2 also the last block and the norm after it.

    Returns:
        The parameters that were trained before.
    """
    parameters = dict(model.named_parameters())
    frozen = []
    for key in locked_keys(parameters, tower, unlocked_groups):
        if parameters[key].requires_grad:
            parameters[key].requires_grad_(False)
            frozen.append(parameters[key])
    return frozen


def locked_keys(keys: Iterable[str], tower: str, unlocked_groups: int) -> list[str]:
    """Return those keys of a model's parameters that `freeze` excludes from training.

    Args:
        keys: The keys of all parameters of the model.
        tower: "image", "text", or "" for no tower.
        unlocked_groups: The number of the last groups of the tower that are still trained.
    """
    locked = []
    for key, n_layers_above in layers_above(keys).items():
        if tower_of(key) == tower and n_layers_above >= unlocked_groups:
            locked.append(key)
    return locked


def layers_above(keys: Iterable[str]) -> dict[str, int]:
    """Return, for the key of each parameter, how many layers of its tower follow it.

    Layer-wise learning rates depend on this number (BEiT, arXiv 2106.08254). Layers are counted as
    in timm:

    - 0 for projections, and for parameters outside the towers
    - 1 for the last block and for the norm after it, 2 for the block before it, and so on
    - the number of blocks plus one for embeddings and `ln_pre`

    Args:
        keys: The keys of all parameters of a model.

    Example:
        In a tower of 12 blocks: {"visual.proj": 0, "visual.transformer.resblocks.11.ln_1.weight":
        1, "visual.transformer.resblocks.0.ln_1.weight": 12, "visual.conv1.weight": 13}.
    """
    keys = list(keys)

    # Find the number of each parameter's block, and the number of blocks of each tower.
    block_number_by_key: dict[str, int] = {}
    n_blocks_by_tower: dict[Tower | None, int] = {}
    for key in keys:
        block_match = _BLOCK.search(key)
        if block_match:
            block_number = int(block_match[1])  # counted from 0
            block_number_by_key[key] = block_number
            n_blocks = n_blocks_by_tower.get(tower_of(key), 0)
            n_blocks_by_tower[tower_of(key)] = max(n_blocks, block_number + 1)

    n_layers_by_key = {}
    for key in keys:
        tower = tower_of(key)
        if tower is None or key.startswith(_PROJECTIONS):
            n_layers_by_key[key] = 0
        elif key.startswith(_LAST_NORMS):
            n_layers_by_key[key] = 1
        elif key in block_number_by_key:
            n_layers_by_key[key] = n_blocks_by_tower[tower] - block_number_by_key[key]
        else:
            n_layers_by_key[key] = n_blocks_by_tower[tower] + 1
    return n_layers_by_key


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

    # Find the tensors that fit the model, after position embeddings are resized.
    model_state = model.state_dict()
    source_state = dict(pretrained.state)
    source_sha256 = _tensors_sha256(source_state)
    resized_keys = _resize_positions(source_state, model, model_state)
    audit = _compare_keys(model_state, source_state, resized_keys, source_sha256)

    # Refuse weights that do not belong to such a model.
    _require_towers(audit, model_state, source_state, source, partial=partial)
    loaded_towers = _towers(audit.loaded)
    model_architecture = model_config(architecture)
    _require_same_options(pretrained.config, model_architecture, loaded_towers, source)
    _require_finite(source_state, model_state, audit, source)

    # Replace these tensors of the model.
    for key in (*audit.loaded, *audit.resized):
        model_state[key] = source_state[key]
    model.load_state_dict(model_state)
    return audit


def _resize_positions(source_state: State, model: nn.Module, model_state: State) -> list[str]:
    """Resize pretrained position embeddings, in place, to the numbers of positions of the model.

    Embeddings stay as they are if they have the size of the model's already, if their width is
    another, or if they belong to patches that do not form a square.

    Args:
        source_state: The pretrained weights, in which embeddings are replaced.
        model: The model.
        model_state: The state dict of the model.

    Returns:
        The keys of the embeddings that were resized.
    """
    resized_keys = []
    for key, resize in _RESIZE_FUNCTIONS.items():
        # Embeddings are (positions, width).
        source_positions, model_positions = source_state.get(key), model_state[key]
        if source_positions is None or source_positions.ndim != 2:
            continue
        has_same_shape = source_positions.shape == model_positions.shape
        has_same_width = source_positions.shape[1] == model_positions.shape[1]
        if has_same_shape or not has_same_width:
            continue
        if key == "visual.positional_embedding":
            n_patches = len(source_positions) - 1  # without the class token
            is_square = math.isqrt(n_patches) ** 2 == n_patches
            if not is_square:
                continue
        source_state[key] = source_positions.float()
        # OpenCLIP's function replaces the embedding in the state.
        resize(source_state, model)
        resized_keys.append(key)
    return resized_keys


def _compare_keys(
    model_state: State, source_state: State, resized_keys: Sequence[str], source_sha256: str
) -> Audit:
    """Find out which tensors of a model can be loaded from pretrained weights.

    A tensor can be loaded if the source has its key with the same shape.

    Args:
        model_state: The state dict of the model.
        source_state: The pretrained weights under OpenCLIP's names.
        resized_keys: The keys of position embeddings in `source_state` that have been resized to
            the shapes of the model.
        source_sha256: The SHA-256 of the pretrained weights before this.

    Returns:
        The keys of both, by what happens to them.
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
    """Return the towers, "image" and "text", to which at least one of the keys belongs."""
    towers = {tower_of(key) for key in keys}
    return {tower for tower in towers if tower is not None}


def _require_towers(
    audit: Audit, model_state: State, source_state: State, source: str, *, partial: bool
) -> None:
    """Check that at least one tower is loaded, and that no tower is loaded only partly.

    Args:
        audit: The keys that are loaded and those that are not.
        model_state: The state dict of the model.
        source_state: The pretrained weights under OpenCLIP's names.
        source: The value of `model.init`, for the error message.
        partial: True if a tower may be loaded partly.

    Raises:
        ValueError: If this is not so. The error describes the first keys that do not fit.
    """
    any_tower_loaded = bool(_towers(audit.loaded))
    # A key with another shape is both new and left over. The dictionary holds it only once.
    mismatched_keys = list(dict.fromkeys([*audit.new, *audit.left_over]))
    mismatched_keys = [key for key in mismatched_keys if tower_of(key) is not None]
    if any_tower_loaded and (partial or not mismatched_keys):
        return

    # Describe the first keys that do not fit. If a tower may be loaded partly, only the keys matter
    # that the model lacks.
    if partial:
        mismatched_keys = [key for key in audit.new if tower_of(key) is not None]
    towers = " and ".join(sorted(_towers(mismatched_keys)))
    descriptions = [_describe_mismatch(key, model_state, source_state) for key in mismatched_keys]
    advice = "; --set model.partial=true loads what fits" if any_tower_loaded else ""
    raise ValueError(
        f"model.init={source} does not fit the {towers} tower: {first_of(descriptions)}{advice}"
    )


def _describe_mismatch(key: str, model_state: State, source_state: State) -> str:
    """Return a key and the reason why it cannot be loaded, for an error message.

    Args:
        key: A key of the model or of the pretrained weights.
        model_state: The state dict of the model.
        source_state: The pretrained weights under OpenCLIP's names.

    Example:
        "visual.proj (missing)" or "visual.proj (64x32 instead of 64x16)".
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
    """Check that the loaded towers were trained with the options that the model has.

    Only options are compared that do not show in the shapes of tensors, such as the number of heads
    or the activation.

    Args:
        source_config: The configuration of the pretrained weights. If it is None, because the
            source does not state it, nothing is compared.
        model_architecture: The configuration of the model.
        loaded_towers: The towers to compare, "image" and "text" or one of them.
        source: The value of `model.init`, for the error message.

    Raises:
        ValueError: If an option differs. The error names the first such options.
    """
    if source_config is None:
        return
    source_options = _options_to_compare(source_config, loaded_towers)
    model_options = _options_to_compare(model_architecture, loaded_towers)
    different_options = []
    for name, model_value in model_options.items():
        if source_options[name] != model_value:
            different_options.append(f"{name}={source_options[name]}, not {model_value}")
    if different_options:
        names = first_of(different_options)
        raise ValueError(f"model.init={source} was trained with {names}; set architecture to it")


def _options_to_compare(config: Mapping[str, Any], towers: set[Tower]) -> dict[str, Any]:
    """Return the options of towers that do not show in the shapes of tensors.

    Args:
        config: OpenCLIP's configuration of a model. An option that it does not state has OpenCLIP's
            default.
        towers: The towers whose options are returned, "image" and "text" or one of them.

    Returns:
        The values of the options by their full names, such as {"quick_gelu": False,
        "text_cfg.heads": 8, ...}.
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
    """Check that the tensors that will be loaded have only finite values.

    Args:
        source_state: The pretrained weights under OpenCLIP's names.
        model_state: The state dict of the model.
        audit: The keys of the model that will not be loaded, among others.
        source: The value of `model.init`, for the error message.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    keys_to_load = [key for key in model_state if key not in audit.new]
    non_finite_keys = [key for key in keys_to_load if not source_state[key].isfinite().all()]
    if non_finite_keys:
        names = first_of(non_finite_keys)
        raise ValueError(f"model.init={source} has values that are not finite: {names}")


def read_pretrained(source: str) -> Pretrained:
    """Read pretrained weights, which are downloaded if needed.

    Args:
        source: The value of `model.init`: `openclip:ARCH/TAG`, `hf:ORG/NAME[@REVISION]`, the path
            of a file, or the name of a bundled model.

    Raises:
        ValueError: For every failure, with a message of one line.
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

    Args:
        name: ARCH/TAG, such as "ViT-B-16/openai", or ARCH/FILE.

    Raises:
        ValueError: If the architecture or the tag is unknown.
    """
    architecture, _, tag = name.partition("/")
    config = model_config(architecture)
    tag_config = open_clip.get_pretrained_cfg(architecture, tag)
    if not tag_config and not Path(tag).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise ValueError(f"{tag!r} is neither a file nor weights of {architecture}: {tags}")
    # Some weights need another activation than the architecture of this name has.
    config["quick_gelu"] = bool(config.get("quick_gelu") or tag_config.get("quick_gelu"))
    model = open_clip.create_model(
        architecture, tag, require_pretrained=True, force_quick_gelu=config["quick_gelu"]
    )
    return Pretrained(_without_prefixes(model.state_dict()), config)


def _read_hugging_face(name: str) -> Pretrained:
    """Read a CLIP model of OpenCLIP or transformers from the Hugging Face Hub or from a folder.

    Args:
        name: ORG/NAME, ORG/NAME@REVISION, or the path of a folder.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        repository, _, revision = name.partition("@")
        patterns = ["*.json", "*.safetensors"]
        folder = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
    openclip_config_file = folder / open_clip.constants.HF_CONFIG_NAME
    if openclip_config_file.is_file():
        config = json.loads(openclip_config_file.read_text(encoding="utf-8"))["model_cfg"]
        state = _load_file(folder / open_clip.constants.HF_SAFE_WEIGHTS_NAME)
        return Pretrained(_without_prefixes(state), config)
    return _read_transformers(folder)


def _read_transformers(folder: Path) -> Pretrained:
    """Read a CLIP model of transformers from a folder, under OpenCLIP's names."""
    try:
        from transformers import CLIPConfig
    except ModuleNotFoundError as error:
        raise ValueError(missing_package("it", "transformers", "hf")) from error

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
    """Read weights from a file, or from a model that comes with this package.

    Args:
        path: The name of a bundled model, or the path of a file. The file is a checkpoint of
            cosmos-train or of the published COSMOS, from which the teacher is read, or the student
            if it has no teacher. Otherwise it is a state dict of OpenCLIP's CLIP.

    Raises:
        CheckpointError: If the file is none of these.
        ValueError: If the file does not exist.
    """
    bundled_path = _BUNDLED_FOLDER / f"{path}.safetensors"
    if bundled_path.is_file():
        path = bundled_path
    if not path.is_file():
        raise ValueError("no such file or bundled model; forms: openclip:ARCH/TAG, hf:ORG/NAME")

    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError:
        # It may be a state dict. OpenCLIP's own checkpoints have it under the key "state_dict".
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
    tower add "text.". The attention mask is left out, because it is a constant.

    Example::

        {"module.text.ln_final.bias": bias, "attn_mask": mask} -> {"ln_final.bias": bias}
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
