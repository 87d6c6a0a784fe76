"""Encoders that guide the last block of another: timm:ARCH, timm:ARCH/PATH, hf:FOLDER,
hf:ORG/NAME[@REVISION], python:FILE.py. Their patches are those of the last block after the norm.

Shapes: B images, h x w patches of this encoder, D its width."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import transformers
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.hub import quiet, reason
from cosmos_eval.models import audit, hf, user
from cosmos_eval.models.attention import PROXY_BETA, PROXY_GAMMA
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.dense import whole_patches
from cosmos_eval.models.encoder import Encoder, tensors_sha256
from cosmos_eval.models.specs import parse_auxiliary, saved_weights, weights_sha256
from cosmos_eval.models.towers import sized
from cosmos_eval.types import ModelSpec, Rgb, UsageError, nearest

# Models of transformers with patch tokens, by `model_type`: options of their constructor.
_TRANSFORMERS: dict[str, dict[str, bool]] = {
    "vit": {"add_pooling_layer": False},
    **{name: {} for name in ("dinov2", "dinov2_with_registers", "dinov3_vit")},
}
_MEMBERS = ("encode_patches", "patch_size", "image_mean", "image_std")


class Auxiliary(NamedTuple):
    """An encoder of patches. `encode_patches` maps images (B, 3, h * patch, w * patch), normalised
    by mean and std (RGB on the 0-1 scale), to (B, h, w, D); `identity` is what results record."""

    encode_patches: Callable[[Tensor], Tensor]
    patch_size: int
    image_mean: Rgb
    image_std: Rgb
    identity: Mapping[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """The fields of `provenance.auxiliary`."""
        means = {"image_mean": [*self.image_mean], "image_std": [*self.image_std]}
        proxy = {"beta": PROXY_BETA, "gamma": PROXY_GAMMA}
        return {**self.identity, "patch_size": self.patch_size, **means, **proxy}

    def features(self, images: Tensor, normalised: tuple[Rgb, Rgb]) -> Tensor:
        """Images (B, 3, H, W), normalised by another mean and std -> (B, H // patch, W // patch,
        D). Raises UsageError for images smaller than a patch and features of another shape."""
        moments = (*normalised, self.image_mean, self.image_std)
        mean, std, own_mean, own_std = (images.new_tensor(one).view(3, 1, 1) for one in moments)
        given = whole_patches((images * std + mean - own_mean) / own_std, self.patch_size)
        found = self.encode_patches(given)
        expected = (len(given), *(side // self.patch_size for side in given.shape[2:]))
        if tuple(found.shape[:-1]) != expected:
            raise UsageError(
                f"{self.identity['spec']}: `encode_patches` returns {tuple(found.shape)} for "
                f"{tuple(given.shape)}, not {expected} and the dimensions of features"
            )
        return found


def guided(encoder: Encoder, text: str) -> ClipEncoder:
    """Return an encoder with attention `proxy`, guided by the encoder of a name. Raises UsageError
    where that cannot be loaded, or `proxy` is not defined for the image tower."""
    plain: Any = getattr(encoder, "built", encoder)  # a bundled one is built when it is used
    if not isinstance(plain, ClipEncoder):
        raise UsageError(
            f"{encoder.info.spec}: --attention proxy is defined for COSMOS models and OpenCLIP's "
            "own CLIP ViTs"
        )
    own = copy.copy(plain)
    own.auxiliary = load(text, plain.info.device)
    own.info = plain.info._replace(auxiliary=own.auxiliary.record)
    own.patch_size = own.auxiliary.patch_size
    side = max(plain.patch_size, own.patch_size, 1)
    own.encode_patches(torch.zeros(1, 3, side, side), "proxy")
    return own


def load(text: str, device: str) -> Auxiliary:
    """Load an encoder by its name, never with random weights. Raises UsageError where it is no ViT,
    or its files are missing, unfit or cannot be fetched."""
    spec = parse_auxiliary(text)
    load_kind = {"timm": _timm, "hf": _transformers, "python": _users}[spec.kind]
    try:
        with quiet():
            loaded = load_kind(spec, device)
            example = torch.zeros(1, 3, 2 * loaded.patch_size, loaded.patch_size, device=device)
            loaded.features(example, ((0.0,) * 3, (1.0,) * 3))
            return loaded
    except UsageError:
        raise
    except Exception as error:  # of the libraries and the hub's client: all are faults of the files
        raise UsageError(f"'{text}' cannot be loaded: {reason(error)}") from error


def _timm(spec: ModelSpec, device: str) -> Auxiliary:
    arch, path = str(spec.arch), spec.name
    if not (timm.is_model(arch) if path else timm.is_model_pretrained(arch)):
        known = nearest(arch, timm.list_models("vit_*", pretrained=True))
        raise UsageError(f"timm has no pretrained weights of '{arch}'; nearest: {known}")
    with torch.device("meta"):  # the class, without weights
        kind = type(timm.create_model(arch))
    if not issubclass(kind, VisionTransformer | Eva):
        raise UsageError(
            f"'{spec.text}': timm's {kind.__name__} has no patch tokens to guide another encoder "
            "by: choose a ViT, such as timm:vit_base_patch8_224.dino"
        )
    file = {"file": path, "custom_load": False} if path else None
    model: Any = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=file)
    audit.require_finite(model.state_dict(), path or arch)
    digest = file_sha256(Path(path)) if path else tensors_sha256(model.state_dict())
    config, (side, *_) = model.pretrained_cfg, model.patch_embed.patch_size
    encode = partial(_patches_of_timm, _placed(model, device))
    identity = {"spec": spec.text, "architecture": arch, "weights_sha256": digest}
    return Auxiliary(encode, side, tuple(config["mean"]), tuple(config["std"]), identity)


def _patches_of_timm(model: Any, images: Tensor) -> Tensor:
    with sized(model, (images.shape[2], images.shape[3])):
        options = {"norm": True, "intermediates_only": True, "output_fmt": "NCHW"}
        (last,) = model.forward_intermediates(images, indices=1, **options)
    return last.permute(0, 2, 3, 1)


def _transformers(spec: ModelSpec, device: str) -> Auxiliary:
    folder, commit = hf.snapshot(spec.name)
    config = transformers.AutoConfig.from_pretrained(folder, **hf.OFFLINE)
    if config.model_type not in _TRANSFORMERS:
        raise UsageError(
            f"'{spec.text}' is a {config.model_type}: one of {', '.join(_TRANSFORMERS)} can guide "
            "another encoder"
        )
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **hf.OFFLINE)
    model = hf.load_model(folder, config, **_TRANSFORMERS[config.model_type])
    identity = {"spec": spec.text, "architecture": type(config).__name__}
    identity["weights_sha256"] = weights_sha256(saved_weights(folder))
    if commit is not None:
        identity["revision"] = commit
    encode = partial(_patches_of_transformers, _placed(model, device))
    moments = tuple(processor.image_mean), tuple(processor.image_std)
    return Auxiliary(encode, config.patch_size, *moments, identity)


def _patches_of_transformers(model: Any, images: Tensor) -> Tensor:
    config = model.config
    options = {"interpolate_pos_encoding": True} if config.model_type == "vit" else {}
    tokens = model(pixel_values=images, **options).last_hidden_state
    prefix = 1 + getattr(config, "num_register_tokens", 0)
    return tokens[:, prefix:].unflatten(1, (-1, images.shape[3] // config.patch_size))


def _users(spec: ModelSpec, device: str) -> Auxiliary:
    made, code, where = user.made_by(Path(spec.name), device, "fp32")
    if lacking := [name for name in _MEMBERS if not hasattr(made, name)]:
        raise UsageError(f"{where} guides no other encoder: it has no {', '.join(lacking)}")
    weights = [*user.referred_weights([made.encode_patches], set())]
    modules = [_placed(one, device) for one in weights if isinstance(one, nn.Module)]
    states = [{"": one} for one in weights if isinstance(one, Tensor)]
    states += [module.state_dict() for module in modules]
    digest = tensors_sha256(*states) if states else None

    def encode(images: Tensor) -> Tensor:
        with user.errors_of(f"{where}: encode_patches"):
            features: Tensor = made.encode_patches(images)
            return features

    identity = {"spec": spec.text, "architecture": type(made).__name__, "weights_sha256": digest}
    moments = tuple(made.image_mean), tuple(made.image_std)
    return Auxiliary(encode, made.patch_size, *moments, {**identity, "code_sha256": code})


def _placed(model: nn.Module, device: str) -> nn.Module:
    return model.eval().requires_grad_(False).to(device)
