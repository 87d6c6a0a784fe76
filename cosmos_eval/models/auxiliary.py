"""Encoders that guide the last block of another: timm:ARCH, timm:ARCH/PATH, hf:FOLDER,
hf:ORG/NAME[@REVISION], python:FILE.py. Patches are those of the last block after its norm."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_core.utils.hub import limit_waiting
from cosmos_eval.data.hub import quiet, reason
from cosmos_eval.models import audit, hf_folder, user
from cosmos_eval.models.attention import PROXY_BETA, PROXY_GAMMA
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.dense import whole_patches
from cosmos_eval.models.encoder import Encoder, tensors_sha256
from cosmos_eval.models.specs import parse_auxiliary, saved_weights, weights_sha256
from cosmos_eval.models.towers import sized
from cosmos_eval.models.weight_files import require_weights
from cosmos_eval.types import ModelSpec, Rgb, UsageError, nearest

# Models of transformers with patch tokens, by `model_type`.
_TRANSFORMERS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")


def guided(encoder: Encoder, text: str) -> ClipEncoder:
    """Return an encoder with attention `proxy`, guided by the encoder of a name. Raises UsageError
    where that cannot be loaded, or `proxy` is not defined for the image tower."""
    plain: Any = getattr(encoder, "built", encoder)  # a bundled one is built when it is used
    if not isinstance(plain, ClipEncoder):
        raise UsageError(
            f"{encoder.info.spec}: --attention proxy is defined for COSMOS models and OpenCLIP's "
            "own CLIP ViTs"
        )
    own, (guide, record) = copy.copy(plain), load(text, plain.info.device)
    own.guide, own.patch_size = guide, record["patch_size"]
    own.info = plain.info._replace(auxiliary=record)
    side = max(plain.patch_size, own.patch_size)
    own.encode_patches(torch.zeros(1, 3, side, side), "proxy")
    return own


def load(text: str, device: str) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """Load an encoder by its name, never with random weights: `features` of images, mean and std,
    and `provenance.auxiliary` of results. Raises UsageError where it is no ViT, or its files are
    missing, unfit or cannot be fetched."""
    spec = parse_auxiliary(text)
    limit_waiting()
    try:
        with quiet():
            load_kind = {"timm": _timm, "hf": _transformers, "python": _users}[spec.kind]
            encode, side, mean, std, identity = load_kind(spec, device)
            inputs = {"patch_size": side, "image_mean": [*mean], "image_std": [*std]}
            constants = {"beta": PROXY_BETA, "gamma": PROXY_GAMMA}
            record = {"spec": text, **identity, **inputs, **constants}
            example = torch.zeros(1, 3, 2 * side, side, device=device)
            features(encode, record, example, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
            return partial(features, encode, record), record
    except Exception as error:  # of the libraries and the hub's client: all are faults of the files
        why = error if isinstance(error, UsageError) else reason(error)
        raise UsageError(f"'{text}' cannot be loaded: {why}") from error


def features(
    encode: Callable[[Tensor], Tensor], own: Mapping[str, Any], images: Tensor, mean: Rgb, std: Rgb
) -> Tensor:
    """Images (B, 3, H, W), normalised by another mean and std than the record's `own` -> (B, H //
    patch, W // patch, D). Raises UsageError where they or features are of another shape."""
    moments = (mean, std, own["image_mean"], own["image_std"])
    before, scale, own_mean, own_std = (images.new_tensor(m).view(3, 1, 1) for m in moments)
    given = whole_patches((images * scale + before - own_mean) / own_std, own["patch_size"])
    patches = encode(given)
    user.require_grid(own["spec"], given, patches, own["patch_size"])
    return patches


# These return a function of images (B, 3, h * patch, w * patch) to (B, h, w, D), patch, mean and
# std (RGB on the 0-1 scale), and the identity of the weights.


def _timm(spec: ModelSpec, device: str) -> tuple[Any, ...]:
    arch, path = str(spec.arch), spec.name
    if not (timm.is_model(arch) if path else timm.is_model_pretrained(arch)):
        known = nearest(arch, timm.list_models("vit_*", pretrained=True))
        raise UsageError(f"timm has no pretrained weights of '{arch}'; nearest: {known}")
    with torch.device("meta"):  # the class, without weights
        kind = type(timm.create_model(arch))
    if not issubclass(kind, VisionTransformer | Eva):
        raise UsageError(
            f"timm's {kind.__name__} has no patch tokens to guide another encoder by: choose a "
            "ViT, such as timm:vit_base_patch8_224.dino"
        )
    file = {"file": path, "custom_load": False} if path else None
    if path:
        require_weights(Path(path))
    model: Any = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=file)
    model = model.eval().requires_grad_(False).to(device)
    audit.require_finite(model.state_dict(), path or arch)
    digest = file_sha256(Path(path)) if path else tensors_sha256(model.state_dict())

    def encode(images: Tensor) -> Tensor:
        options = {"norm": True, "intermediates_only": True, "output_fmt": "NCHW"}
        with sized(model, (images.shape[2], images.shape[3])):
            (last,) = model.forward_intermediates(images, indices=1, **options)
        return last.permute(0, 2, 3, 1)

    config, identity = model.pretrained_cfg, {"architecture": arch, "weights_sha256": digest}
    return encode, model.patch_embed.patch_size[0], config["mean"], config["std"], identity


def _transformers(spec: ModelSpec, device: str) -> tuple[Any, ...]:
    folder, commit = hf_folder.snapshot(spec.name)
    config = transformers.AutoConfig.from_pretrained(folder, **hf_folder.OFFLINE)
    if config.model_type not in _TRANSFORMERS:
        known = ", ".join(_TRANSFORMERS)
        raise UsageError(f"it is a {config.model_type}, but one of {known} is needed")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **hf_folder.OFFLINE)
    is_vit, side = config.model_type == "vit", config.patch_size
    options: dict[str, Any] = {"add_pooling_layer": False} if is_vit else {}
    loaded = hf_folder.load_model(folder, config, **options)
    # from_pretrained leaves it in evaluation mode
    model = loaded.model.requires_grad_(False).to(device)
    prefix = 1 + getattr(config, "num_register_tokens", 0)

    def encode(images: Tensor) -> Tensor:
        options = {"interpolate_pos_encoding": True} if is_vit else {}
        tokens = model(pixel_values=images, **options).last_hidden_state[:, prefix:]
        patches: Tensor = tokens.unflatten(1, (-1, images.shape[3] // side))
        return patches

    digest, of_hub = weights_sha256(saved_weights(folder)), {"revision": commit} if commit else {}
    identity = {"architecture": type(config).__name__, "weights_sha256": digest, **of_hub}
    return encode, side, processor.image_mean, processor.image_std, identity


def _users(spec: ModelSpec, device: str) -> tuple[Any, ...]:
    made, code, where = user.made_by(spec, device, "fp32")
    weights = [*user.referred_weights([made.encode_patches], set())]
    for module in (one for one in weights if isinstance(one, nn.Module)):
        module.eval().requires_grad_(False).to(device)
    states = [one.state_dict() if isinstance(one, nn.Module) else {"": one} for one in weights]
    identity = {"architecture": type(made).__name__, "code_sha256": code}
    digest = {"weights_sha256": tensors_sha256(*states) if states else None}
    encode = user.errors_of(f"{where}: encode_patches")(made.encode_patches)
    return encode, made.patch_size, made.image_mean, made.image_std, identity | digest
