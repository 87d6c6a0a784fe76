"""Conversion of models to the layout of another library.

A COSMOS or OpenCLIP ViT becomes a CLIPModel of transformers (5), and a CLIPModel becomes a CLIP of
OpenCLIP (3.3). One table has the names of both. The written model is loaded as any model is, and
compared with its source, before the folder appears."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import safetensors.torch
import transformers
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor

from cosmos_core.model.transformers_names import tensor_names, to_openclip, to_transformers
from cosmos_core.utils.files import appearing, errors_of, require_new_folder, write_atomically
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.hf import HfEncoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import ModelSpec, UsageError

# Modules that features do not need, and that CLIPModel does not have.
_UNUSED_MODULES = (
    "visual.attn_cross_pool",
    "text_attn_cross_pool",
    "image_token_mapping",
    "text_token_mapping",
    "distill_logit_scale",
    "logit_bias",
)
_SPECIAL_TOKENS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
_RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's numbers
_TEXTS = ["", "a dog", "A photo of two CATs, isn't it?", "a café in 1998", "dog " * 100]
# The largest relative distances that count as rounding. transformers rounds some values of a
# resized image differently.
_TOLERANCES = {"pixels": 1e-2, "image features": 1e-5, "text features": 1e-5}


def convert(spec: ModelSpec, output: Path) -> list[str]:
    """Write a model to a new folder in the other library's layout, atomically.

    A model of transformers becomes one of OpenCLIP, and any other model one of transformers.

    Args:
        spec: The specification of the model.
        output: The path of the folder, which must not exist or be empty.

    Returns:
        Notes on differences from the source, such as modules that were left out.

    Raises:
        UsageError: If the other library cannot hold the model, or computes other features.
    """
    output = output.resolve()
    try:
        require_new_folder(output)
    except ValueError as error:
        raise UsageError(str(error)) from error
    source: Any = load_encoder(spec)
    source = getattr(source, "built", source)  # a bundled model is built when it is used
    with errors_of(output), appearing(output) as folder:
        if isinstance(source, HfEncoder):
            notes = _write_openclip_model(source, folder, output.name)
            written_name, library = f"openclip:{folder}", "open_clip"
        else:
            notes = _write_transformers_model(source, folder)
            written_name, library = f"hf:{folder}", "transformers"
        written = load_encoder(parse_model_spec(written_name))
        _require_same_outputs(source, written)

        # Write the model card.
        template = Path(__file__).with_name("card.md").read_text("utf-8")
        card = template.format(
            info=source.info,
            weights=source.info.weights or "model",
            name=output.name,
            library=library,
            notes="".join(f"{note}. " for note in notes),
        )
        write_atomically(folder / "README.md", card.encode())
    return notes


def _require(condition: object, fault: str) -> None:
    """Raise UsageError, which says why a model cannot be converted, unless the condition holds."""
    if not condition:
        raise UsageError(f"the model cannot be converted: {fault}; use it as it is")


def _write_transformers_model(source: ClipEncoder, folder: Path) -> list[str]:
    """Write a model of OpenCLIP's to a folder as a CLIPModel of transformers.

    The folder gets the configuration, the image processor, the tokenizer and the weights.

    Args:
        source: The encoder of the model.
        folder: The folder, which exists already.

    Returns:
        Notes on modules that CLIPModel does not have.
    """
    _require(isinstance(source, ClipEncoder), "it is code of your own")
    hf_names = _map_tensor_names(source)  # the names in transformers by OpenCLIP's names
    model, openclip_tokenizer = source.model, source.openclip_tokenizer

    # Convert the tokenizer. Its merges are sorted by their ranks.
    rank_by_merge = openclip_tokenizer.bpe_ranks
    tokenizer = transformers.CLIPTokenizer(
        _hf_vocabulary(openclip_tokenizer),
        sorted(rank_by_merge, key=rank_by_merge.get),
        model_max_length=model.context_length,
    )
    image_processor = _hf_image_processor(source.preprocessing, model.visual.image_size[0])

    # Write all files.
    _hf_config(model, openclip_tokenizer).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json, merges.txt, for older tools
    state = model.state_dict()
    _save_tensors(folder / "model.safetensors", to_transformers(state, hf_names))

    omitted_modules = []
    for module_name in _UNUSED_MODULES:
        if any(tensor_name.startswith(module_name) for tensor_name in state):
            omitted_modules.append(module_name)
    if not omitted_modules:
        return []
    return [f"CLIPModel has no place for {', '.join(omitted_modules)}"]


def _map_tensor_names(source: ClipEncoder) -> dict[str, list[str]]:
    """Return the names in CLIPModel of each tensor of a model, by the tensor's name in OpenCLIP.

    CLIPModel splits some tensors into several, which is why there may be more than one name. Raises
    UsageError for a model that CLIPModel cannot hold.

    Example:
        {"visual.class_embedding": ["vision_model.embeddings.class_embedding"], ...}
    """
    model, visual = source.model, source.model.visual
    # Check the architecture.
    _require(not source.info.random, "its weights are random, which a folder would not show")
    for module, supported_class in ((model, open_clip.CLIP), (visual, VisionTransformer)):
        _require(
            isinstance(module, supported_class),
            f"CLIPModel has no {type(module).__name__} of OpenCLIP's",
        )
    is_square = all(len(set(size)) == 1 for size in (visual.image_size, visual.patch_size))
    _require(is_square, "CLIPModel has square images and patches")
    _require(visual.pool_type == "tok", "CLIPModel reads the class token of an image")
    _require(
        source.trims_text,
        "CLIPModel's text tower is causal and read at the end of text of OpenCLIP's tokenizer",
    )

    # Check that both have the same tensors.
    hf_names = tensor_names(visual.transformer.layers, model.transformer.layers)
    used_names = {name for name in model.state_dict() if not name.startswith(_UNUSED_MODULES)}
    different_names = sorted(used_names ^ hf_names.keys())
    _require(not different_names, f"CLIPModel has other weights: {', '.join(different_names[:3])}")
    return hf_names


def _hf_config(model: Any, tokenizer: open_clip.SimpleTokenizer) -> Any:
    """Return the configuration of the CLIPModel that a model of OpenCLIP becomes."""
    visual = model.visual
    vision_config = _hf_tower_config(visual.transformer, visual.output_dim)
    vision_config["image_size"] = visual.image_size[0]
    vision_config["patch_size"] = visual.patch_size[0]

    text_config = _hf_tower_config(model.transformer, visual.output_dim)
    text_config["vocab_size"] = model.vocab_size
    text_config["max_position_embeddings"] = model.context_length
    text_config["bos_token_id"] = tokenizer.sot_token_id
    # The feature is read at this token; 2 would mean the highest id of a text.
    text_config["eos_token_id"] = tokenizer.eot_token_id
    text_config["pad_token_id"] = tokenizer.eot_token_id
    return transformers.CLIPConfig(
        vision_config=vision_config,
        text_config=text_config,
        projection_dim=visual.output_dim,
        architectures=["CLIPModel"],
        dtype="float32",
    )


def _hf_tower_config(transformer: Any, feature_size: int) -> dict[str, Any]:
    """Return the keys of a CLIPModel's configuration that the image and the text tower share.

    Args:
        transformer: The transformer of one tower of an OpenCLIP model.
        feature_size: D, the size of the features.
    """
    block = transformer.resblocks[0]
    return {
        "hidden_size": transformer.width,
        "num_hidden_layers": transformer.layers,
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.c_fc.out_features,
        "hidden_act": "quick_gelu" if isinstance(block.mlp.gelu, QuickGELU) else "gelu",
        "layer_norm_eps": block.ln_1.eps,
        "projection_dim": feature_size,
    }


def _hf_image_processor(preprocessing: Mapping[str, Any], side: int) -> Any:
    """Return the image processor of transformers that does the same as OpenCLIP's preprocessing.

    Args:
        preprocessing: OpenCLIP's settings, such as {"resize_mode": "shortest", "mean": ...}.
        side: The height and width of the model's images, in pixels.

    Raises:
        UsageError: If transformers lacks this way of resizing.
    """
    resize_mode = preprocessing["resize_mode"]
    _require(
        resize_mode in ("shortest", "squash"),
        f"CLIPImageProcessor has no resize_mode '{resize_mode}'",
    )
    square = {"height": side, "width": side}
    return transformers.CLIPImageProcessor(
        size=square if resize_mode == "squash" else {"shortest_edge": side},
        crop_size=square,
        do_center_crop=resize_mode == "shortest",
        resample=_RESAMPLE[preprocessing["interpolation"]],
        image_mean=preprocessing["mean"],
        image_std=preprocessing["std"],
    )


def _hf_vocabulary(tokenizer: open_clip.SimpleTokenizer) -> dict[str, int]:
    """Return the ids of OpenCLIP's tokens, by the spelling of these tokens in transformers.

    Only special tokens differ: <|startoftext|> is <start_of_text> in OpenCLIP.
    """
    vocabulary = {}
    for token, token_id in tokenizer.encoder.items():
        hf_token = _SPECIAL_TOKENS.get(token, token)
        vocabulary[hf_token] = token_id
    return vocabulary


def _write_openclip_model(source: HfEncoder, folder: Path, output_name: str) -> list[str]:
    """Write a CLIPModel of transformers to a folder as a model of OpenCLIP.

    The folder gets the description, the weights, and the tokenizer if it is not OpenCLIP's own.

    Args:
        source: The encoder of the model.
        folder: The folder, which exists already under a temporary name.
        output_name: The name that the folder will have.

    Returns:
        Notes on differences from the source.
    """
    model, processor, tokenizer = source.components
    _require(isinstance(model, transformers.CLIPModel), f"OpenCLIP has no {type(model).__name__}")
    config = _openclip_config(model.config)
    notes = []
    if tokenizer.get_vocab() != _hf_vocabulary(open_clip.SimpleTokenizer()):
        tokenizer.save_pretrained(folder)  # OpenCLIP reads it from the model's folder
        config["text_cfg"]["hf_tokenizer_name"] = output_name
        notes.append(
            "On the hub, hf_tokenizer_name must name the repository, which has the tokenizer"
        )

    description = {"model_cfg": config, "preprocess_cfg": _openclip_preprocessing(processor)}
    content = f"{json.dumps(description, indent=2)}\n".encode()
    write_atomically(folder / HF_CONFIG_NAME, content)
    hf_names = tensor_names(config["vision_cfg"]["layers"], config["text_cfg"]["layers"])
    _save_tensors(folder / HF_SAFE_WEIGHTS_NAME, to_openclip(model.state_dict(), hf_names))
    return notes


def _openclip_config(config: Any) -> dict[str, Any]:
    """Return the `model_cfg` of OpenCLIP from the configuration of a CLIPModel of transformers.

    Raises UsageError for activations that OpenCLIP lacks.
    """
    vision, text = config.vision_config, config.text_config
    activations = f"{vision.hidden_act} and {text.hidden_act}"
    supported_activations = ("gelu and gelu", "quick_gelu and quick_gelu")
    _require(activations in supported_activations, f"OpenCLIP has no {activations}")

    vision_cfg = _openclip_tower_config(vision)
    vision_cfg["image_size"] = vision.image_size
    vision_cfg["patch_size"] = vision.patch_size
    vision_cfg["head_width"] = vision.hidden_size // vision.num_attention_heads

    text_cfg = _openclip_tower_config(text)
    text_cfg["context_length"] = text.max_position_embeddings
    text_cfg["vocab_size"] = text.vocab_size
    text_cfg["heads"] = text.num_attention_heads
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


def _openclip_tower_config(config: Any) -> dict[str, Any]:
    """Return the keys of OpenCLIP's configuration that the image and the text tower share.

    `config` is the configuration of one tower of a CLIPModel of transformers.
    """
    tower_config = {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
    }
    if config.layer_norm_eps != 1e-5:
        tower_config["norm_kwargs"] = {"eps": config.layer_norm_eps}
    return tower_config


def _openclip_preprocessing(processor: Any) -> dict[str, Any]:
    """Return OpenCLIP's `preprocess_cfg` for an image processor of transformers.

    Options of the processor that OpenCLIP lacks are dropped. If they matter,
    `_require_same_outputs` finds different pixels.
    """
    interpolation_by_number = {number: name for name, number in _RESAMPLE.items()}
    _require(
        processor.resample in interpolation_by_number,
        f"OpenCLIP has no resample {processor.resample}",
    )
    return {
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "interpolation": interpolation_by_number[processor.resample],
        "resize_mode": "shortest" if processor.size["shortest_edge"] else "squash",
    }


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as a safetensors file, atomically."""
    write_atomically(path, safetensors.torch.save(tensors, {"format": "pt"}))


def _require_same_outputs(source: Encoder, written: Encoder) -> None:
    """Raise UsageError if a written model returns other pixels or features than its source.

    They are compared on an example picture and on example texts.
    """
    # Make a picture of noise. The margins that its crop cuts off are whole numbers of pixels,
    # because libraries round half a pixel differently.
    side = source.transform(PIL.Image.new("RGB", (9, 9))).shape[-1]
    noise = np.random.default_rng(0).integers(0, 256, (2 * side, 6 * side, 3), np.uint8)
    picture = PIL.Image.fromarray(noise)
    pixels = source.transform(picture)[None]
    written_pixels = written.transform(picture)[None]
    _require_close("pixels", pixels, written_pixels)
    # Both encode the same pixels, so that differences of pixels do not add up.
    _require_close("image features", source.encode_image(pixels), written.encode_image(pixels))
    text_features = source.encode_text(source.tokenize(_TEXTS))
    written_text_features = written.encode_text(written.tokenize(_TEXTS))
    _require_close("text features", text_features, written_text_features)


def _require_close(output_name: str, tensor: Tensor, written_tensor: Tensor) -> None:
    """Raise UsageError if an output of a written model differs from the source's beyond rounding.

    Args:
        output_name: The kind of output: "pixels", "image features" or "text features".
        tensor: The output of the source.
        written_tensor: The output of the written model for the same input.
    """
    tolerance = _TOLERANCES[output_name]
    relative_distance = float("inf")
    if tensor.shape == written_tensor.shape:
        relative_distance = float((tensor - written_tensor).norm() / tensor.norm())
    _require(
        relative_distance <= tolerance,
        f"its {output_name} would differ by {relative_distance:.1e}, not at most {tolerance:.0e}",
    )
