"""Encoders that guide the last block of another encoder.

Their names are timm:ARCH, timm:ARCH/PATH, hf:FOLDER, hf:ORG/NAME[@REVISION] and python:FILE.py.
Their patches are the output of the last block after the norm."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_core.utils.hub import limit_waiting
from cosmos_eval.data.hub import describe_error, quiet
from cosmos_eval.models import audit, user
from cosmos_eval.models.attention import PROXY_BETA, PROXY_GAMMA
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.dense import crop_to_whole_patches
from cosmos_eval.models.encoder import Encoder, tensors_sha256
from cosmos_eval.models.specs import find_saved_weights, parse_auxiliary, weights_sha256
from cosmos_eval.models.suggestions import nearest_guides
from cosmos_eval.models.towers import timm_input_size
from cosmos_eval.models.weight_files import require_weights
from cosmos_eval.types import ModelSpec, Rgb, UsageError

# The `model_type` of transformers of each model with patch tokens.
_TRANSFORMERS_TYPES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")


def add_guide(encoder: Encoder, text: str) -> ClipEncoder:
    """Return a copy of an encoder that can compute attention `proxy`.

    With this attention, the features of another encoder, the guide, decide the weights of attention
    in the last block.

    Args:
        encoder: The encoder to copy. Its weights are shared with the copy.
        text: The name of the guide, such as "timm:vit_base_patch8_224.dino".

    Raises:
        UsageError: If the guide cannot be loaded, or if the attention is not defined for the image
            tower of the encoder.
    """
    original: Any = getattr(encoder, "built", encoder)  # a bundled model is built when it is used
    if not isinstance(original, ClipEncoder):
        raise UsageError(
            f"{encoder.info.spec}: --attention proxy is defined for COSMOS models and OpenCLIP's "
            "own CLIP ViTs"
        )

    guided_encoder = copy.copy(original)
    guide = load(text, original.info.device)
    guided_encoder.guide = guide.features
    guided_encoder.patch_size = guide.record["patch_size"]
    guided_encoder.info = original.info._replace(auxiliary=guide.record)

    # Encode the smallest image, so that an unfit image tower raises the error here, and not during
    # the measurement.
    side = max(original.patch_size, guided_encoder.patch_size)
    guided_encoder.encode_patches(torch.zeros(1, 3, side, side), "proxy")
    return guided_encoder


class LoadedGuide(NamedTuple):
    """An encoder that guides the attention of another encoder."""

    # Maps images, and the mean and std that normalised them, to features: `Guide.features`.
    features: Callable[..., Tensor]
    # What results record of the guide under `provenance.auxiliary`.
    record: dict[str, Any]


def load(text: str, device: str) -> LoadedGuide:
    """Load an encoder that guides the attention of another one, never with random weights.

    Args:
        text: Its name, such as "timm:vit_base_patch8_224.dino" or "hf:ORG/NAME".
        device: The device that it runs on, such as "cpu".

    Raises:
        UsageError: If it is not a ViT, or if its files are missing, damaged or cannot be fetched.
    """
    spec = parse_auxiliary(text)
    limit_waiting()
    try:
        with quiet():
            # Load the guide, and describe it for results.
            guide = _GUIDES[spec.kind](spec, device)
            record = {
                "spec": text,
                **guide.identity,
                "patch_size": guide.patch_size,
                "image_mean": [*guide.image_mean],
                "image_std": [*guide.image_std],
                "beta": PROXY_BETA,
                "gamma": PROXY_GAMMA,
            }

            # Find out whether the guide can encode. Two patches are enough.
            example = torch.zeros(1, 3, 2 * guide.patch_size, guide.patch_size, device=device)
            guide.features(example, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
            return LoadedGuide(guide.features, record)
    except UsageError as error:
        raise UsageError(f"'{text}' cannot be loaded: {error}") from error
    except Exception as error:  # the libraries and the hub's client raise errors of all types
        raise UsageError(f"'{text}' cannot be loaded: {describe_error(error)}") from error


class Guide(ABC):
    """An encoder whose patches guide the attention of another one."""

    # The name of the guide in error messages.
    spec: str
    # The side of a patch in pixels.
    patch_size: int
    # The mean and std of the images that the guide expects: RGB on the 0-1 scale.
    image_mean: Sequence[float]
    image_std: Sequence[float]
    # The architecture and the hashes that identify the guide in results.
    identity: dict[str, Any]

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return the features (B, h, w, D) of the patches of images (B, 3, h * patch, w * patch).

        Images are normalised by the guide's own mean and std.
        """

    def features(self, images: Tensor, mean: Rgb, std: Rgb) -> Tensor:
        """Return the features (B, H // patch, W // patch, D) of the patches of images.

        Args:
            images: Pixels (B, 3, H, W) that another encoder's transform has normalised.
            mean: The mean by which they are normalised, RGB on the 0-1 scale.
            std: The standard deviation by which they are normalised.

        Raises:
            UsageError: If images are smaller than a patch, or if the features have another shape.
        """
        # Undo the other encoder's normalisation, and apply the one that the guide expects.
        pixels = images * _per_channel(std, images) + _per_channel(mean, images)
        centred_pixels = pixels - _per_channel(self.image_mean, images)
        guide_images = centred_pixels / _per_channel(self.image_std, images)

        cropped_images = crop_to_whole_patches(guide_images, self.patch_size)
        features = self.encode(cropped_images)
        user.require_patch_grid(self.spec, cropped_images, features, self.patch_size)
        return features


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    """Return the values of the three colours as a tensor (3, 1, 1), to be combined with images.

    It has the dtype and the device of `images` (B, 3, H, W), over which it broadcasts.
    """
    return images.new_tensor(values).view(3, 1, 1)


class TimmGuide(Guide):
    """A ViT of timm, with timm's pretrained weights or with the weights of a file."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        """Load a ViT of timm.

        Args:
            spec: The specification of timm:ARCH or timm:ARCH/PATH. Its `name` is the path, or "".
            device: The device that the ViT runs on.

        Raises:
            UsageError: If timm has no such ViT, and for weights that are not finite.
        """
        arch, path = str(spec.arch), spec.name
        _require_timm_vit(arch, path)

        # Load timm's pretrained weights, or the weights of the file in their place.
        overlay = None
        if path:
            require_weights(Path(path))
            overlay = {"file": path, "custom_load": False}
        model: Any = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay)
        self.model = model.eval().requires_grad_(False).to(device)
        state = self.model.state_dict()
        audit.require_finite(state, path or arch)

        # Describe the guide.
        digest = file_sha256(Path(path)) if path else tensors_sha256(state)
        self.spec = spec.text
        self.patch_size = self.model.patch_embed.patch_size[0]
        self.image_mean = self.model.pretrained_cfg["mean"]
        self.image_std = self.model.pretrained_cfg["std"]
        self.identity = {"architecture": arch, "weights_sha256": digest}

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (B, h, w, D) of the patches of images (B, 3, h * patch, w * patch).

        They are the output of the last block after the norm.
        """
        with timm_input_size(self.model, (images.shape[2], images.shape[3])):
            # `indices=1` asks for the last block only.
            (features,) = self.model.forward_intermediates(
                images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        return features.permute(0, 2, 3, 1)


def _require_timm_vit(arch: str, path: str) -> None:
    """Raise UsageError unless timm has a ViT of this name.

    Args:
        arch: The name of an architecture, such as "vit_base_patch8_224.dino".
        path: The path of a file of weights. If it is empty, timm must also have pretrained weights
            of the ViT.
    """
    is_available = timm.is_model(arch) if path else timm.is_model_pretrained(arch)
    if not is_available:
        guides = ", ".join(nearest_guides(arch))
        raise UsageError(f"timm has no pretrained weights of '{arch}'; nearest: {guides}")
    with torch.device("meta"):  # only the class is needed, no weights
        model_class = type(timm.create_model(arch))
    if not issubclass(model_class, VisionTransformer | Eva):
        raise UsageError(
            f"timm's {model_class.__name__} has no patch tokens to guide another encoder by: "
            "choose a ViT, such as timm:vit_base_patch8_224.dino"
        )


class TransformersGuide(Guide):
    """A ViT or DINO model of transformers, from a folder or the hub."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        """Load a model of transformers.

        Args:
            spec: The specification of hf:FOLDER or hf:ORG/NAME. Its `name` is what follows "hf:".
            device: The device that the model runs on.

        Raises:
            UsageError: If it is not one of `_TRANSFORMERS_TYPES`, and if its weights do not fit.
            ModuleNotFoundError: If transformers is not installed.
        """
        # Guides of timm do not need transformers.
        import transformers

        from cosmos_eval.models import hf_folder

        folder, commit = hf_folder.fetch_folder(spec.name)
        config = transformers.AutoConfig.from_pretrained(folder, **hf_folder.OFFLINE)
        if config.model_type not in _TRANSFORMERS_TYPES:
            supported = ", ".join(_TRANSFORMERS_TYPES)
            raise UsageError(f"it is a {config.model_type}, but one of {supported} is needed")

        processor = transformers.AutoImageProcessor.from_pretrained(folder, **hf_folder.OFFLINE)
        self.is_vit = config.model_type == "vit"
        options: dict[str, Any] = {"add_pooling_layer": False} if self.is_vit else {}
        loaded = hf_folder.load_model(folder, config, **options)
        # from_pretrained leaves the model in evaluation mode
        self.model: Any = loaded.model.requires_grad_(False).to(device)

        # Describe the guide. The class token and the registers come before the patches.
        self.n_prefix_tokens = 1 + getattr(config, "num_register_tokens", 0)
        self.spec = spec.text
        self.patch_size = config.patch_size
        self.image_mean = processor.image_mean
        self.image_std = processor.image_std
        self.identity = {
            "architecture": type(config).__name__,
            "weights_sha256": weights_sha256(find_saved_weights(folder)),
        }
        if commit:
            self.identity["revision"] = commit

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (B, h, w, D) of the patches of images (B, 3, h * patch, w * patch).

        They are the output of the last block after the norm.
        """
        # ViTs take other sizes of images only with this option. DINO models do always.
        options = {"interpolate_pos_encoding": True} if self.is_vit else {}
        tokens = self.model(pixel_values=images, **options).last_hidden_state
        patches: Tensor = tokens[:, self.n_prefix_tokens :]  # (B, h * w, D)
        n_columns = images.shape[3] // self.patch_size
        return patches.unflatten(1, (-1, n_columns))


class UserGuide(Guide):
    """A user's encoder with `encode_patches`, from a Python file."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        """Run a Python file, and move the modules of its encoder to a device.

        Args:
            spec: The specification of python:FILE.py. Its `name` is the path of the file.
            device: The device that the encoder runs on.

        Raises:
            UsageError: For every error in the file.
        """
        encoder, code_sha256, origin = user.load_user_model(spec, device, "fp32")
        weights = [*user.referred_weights([encoder.encode_patches])]
        modules = [weight for weight in weights if isinstance(weight, nn.Module)]
        for module in modules:
            module.eval().requires_grad_(False).to(device)
        # The modules are an attribute, so that `referred_weights` of the guided encoder finds them.
        self.modules = nn.ModuleList(modules)

        # Describe the guide.
        states = user.state_dicts(weights)
        self.encoder = encoder
        self.origin = origin
        self.spec = spec.text
        self.patch_size = encoder.patch_size
        self.image_mean = encoder.image_mean
        self.image_std = encoder.image_std
        self.identity = {
            "architecture": type(encoder).__name__,
            "code_sha256": code_sha256,
            "weights_sha256": tensors_sha256(*states) if states else None,
        }

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (B, h, w, D) of the patches of images (B, 3, h * patch, w * patch).

        Raises UsageError for every error in the user's `encode_patches`.
        """
        with user.errors_as_usage_errors(f"{self.origin}: encode_patches"):
            features: Tensor = self.encoder.encode_patches(images)
        return features


# The classes of guides by the kinds of their names.
_GUIDES: dict[str, Callable[[ModelSpec, str], Guide]] = {
    "timm": TimmGuide,
    "hf": TransformersGuide,
    "python": UserGuide,
}
