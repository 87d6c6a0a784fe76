"""Models in the layout of another library: a COSMOS or OpenCLIP ViT as CLIPModel of transformers
(5), and a CLIPModel as CLIP of OpenCLIP (3.3). One table has the names of both. What was written is
loaded as any model is, and compared with its source, before the folder appears."""

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

# Modules that features do not need, and CLIPModel does not have.
_LEFT_OUT = (
    *("visual.attn_cross_pool", "text_attn_cross_pool", "image_token_mapping"),
    *("text_token_mapping", "distill_logit_scale", "logit_bias"),
)
_SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
_RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's numbers
_TEXTS = ["", "a dog", "A photo of two CATs, isn't it?", "a café in 1998", "dog " * 100]
# Relative distances; transformers rounds some values of a resized image otherwise.
_MOST = {"pixels": 1e-2, "image features": 1e-5, "text features": 1e-5}


def convert(spec: ModelSpec, output: Path) -> list[str]:
    """Write a model to a new folder, atomically; return notes on what differs from the source.
    Raises UsageError where the other library cannot hold the model or has other features."""
    output = output.resolve()
    try:
        require_new_folder(output)
    except ValueError as error:
        raise UsageError(str(error)) from error
    source: Any = load_encoder(spec)
    source = getattr(source, "built", source)  # of a bundled model
    with errors_of(output), appearing(output) as folder:
        if isinstance(source, HfEncoder):
            kind, library, notes = "openclip", "open_clip", _write_openclip(source, folder, output)
        else:
            kind, library, notes = "hf", "transformers", _write_transformers(source, folder)
        _require_same(source, load_encoder(parse_model_spec(f"{kind}:{folder}")))
        stated = {"name": output.name, "library": library, "notes": ". ".join([*notes, ""])}
        text = Path(__file__).with_name("card.md").read_text("utf-8")
        card = text.format(info=source.info, weights=source.info.weights or "model", **stated)
        write_atomically(folder / "README.md", card.encode())
    return notes


def _require(holds: object, fault: str) -> None:
    if not holds:
        raise UsageError(f"the model cannot be converted: {fault}; use it as it is")


def _write_transformers(source: ClipEncoder, folder: Path) -> list[str]:
    _require(isinstance(source, ClipEncoder), "it is code of your own")
    names, model, own = _names(source), source.model, source.openclip_tokenizer
    images = _image_processor(source.preprocessing, model.visual.image_size[0])
    merges, longest = sorted(own.bpe_ranks, key=own.bpe_ranks.get), model.context_length
    tokenizer = transformers.CLIPTokenizer(_vocabulary(own), merges, model_max_length=longest)
    for part in (_hf_config(model, own), images, tokenizer):
        part.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json, merges.txt, for older tools
    state = model.state_dict()
    _save(folder / "model.safetensors", to_transformers(state, names))
    left_out = [name for name in _LEFT_OUT if any(key.startswith(name) for key in state)]
    return [f"CLIPModel has no place for {', '.join(left_out)}"] if left_out else []


def _names(source: ClipEncoder) -> dict[str, list[str]]:
    """Return the names of a model's tensors. Raises UsageError for what CLIPModel does not have."""
    model, visual = source.model, source.model.visual
    _require(not source.info.random, "its weights are random, which no folder would tell")
    for part, kind in ((model, open_clip.CLIP), (visual, VisionTransformer)):
        _require(isinstance(part, kind), f"CLIPModel has no {type(part).__name__} of OpenCLIP's")
    squares = all(len({*size}) == 1 for size in (visual.image_size, visual.patch_size))
    _require(squares, "CLIPModel has square images and patches")
    _require(visual.pool_type == "tok", "CLIPModel reads the class token of an image")
    text = "CLIPModel's text tower is causal and read at the end of text of OpenCLIP's tokenizer"
    _require(source.trims_text, text)
    names = tensor_names(visual.transformer.layers, model.transformer.layers)
    kept = {key for key in model.state_dict() if not key.startswith(_LEFT_OUT)}
    others = sorted(kept ^ names.keys())
    _require(not others, f"CLIPModel has other weights: {', '.join(others[:3])}")
    return names


def _hf_config(model: Any, tokenizer: open_clip.SimpleTokenizer) -> Any:
    visual, end = model.visual, tokenizer.eot_token_id
    text = {
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context_length,
        "bos_token_id": tokenizer.sot_token_id,
        "eos_token_id": end,  # where the feature is read; 2 would mean the highest id of a text
        "pad_token_id": end,
    }
    image = {"image_size": visual.image_size[0], "patch_size": visual.patch_size[0]}
    return transformers.CLIPConfig(
        vision_config=_hf_tower(visual.transformer, visual.output_dim) | image,
        text_config=_hf_tower(model.transformer, visual.output_dim) | text,
        projection_dim=visual.output_dim,
        architectures=["CLIPModel"],
        dtype="float32",
    )


def _hf_tower(transformer: Any, width: int) -> dict[str, Any]:
    block = transformer.resblocks[0]
    return {
        "hidden_size": transformer.width,
        "num_hidden_layers": transformer.layers,
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.c_fc.out_features,
        "hidden_act": "quick_gelu" if isinstance(block.mlp.gelu, QuickGELU) else "gelu",
        "layer_norm_eps": block.ln_1.eps,
        "projection_dim": width,
    }


def _image_processor(preprocessing: Mapping[str, Any], side: int) -> Any:
    mode, square = preprocessing["resize_mode"], {"height": side, "width": side}
    _require(mode in ("shortest", "squash"), f"CLIPImageProcessor has no resize_mode '{mode}'")
    return transformers.CLIPImageProcessor(
        size=square if mode == "squash" else {"shortest_edge": side},
        crop_size=square,
        do_center_crop=mode == "shortest",
        resample=_RESAMPLE[preprocessing["interpolation"]],
        image_mean=preprocessing["mean"],
        image_std=preprocessing["std"],
    )


def _vocabulary(tokenizer: open_clip.SimpleTokenizer) -> dict[str, int]:
    return {_SPECIAL.get(word, word): number for word, number in tokenizer.encoder.items()}


def _write_openclip(source: HfEncoder, folder: Path, output: Path) -> list[str]:
    model, processor, tokenizer = source.parts
    _require(isinstance(model, transformers.CLIPModel), f"OpenCLIP has no {type(model).__name__}")
    config, notes = _openclip_config(model.config), []
    if tokenizer.get_vocab() != _vocabulary(open_clip.SimpleTokenizer()):
        tokenizer.save_pretrained(folder)  # where OpenCLIP reads it, whatever it is named
        config["text_cfg"]["hf_tokenizer_name"] = output.name
        notes = ["On the hub, hf_tokenizer_name must name the repository, which has the tokenizer"]
    described = {"model_cfg": config, "preprocess_cfg": _preprocessing(processor)}
    write_atomically(folder / HF_CONFIG_NAME, f"{json.dumps(described, indent=2)}\n".encode())
    names = tensor_names(config["vision_cfg"]["layers"], config["text_cfg"]["layers"])
    _save(folder / HF_SAFE_WEIGHTS_NAME, to_openclip(model.state_dict(), names))
    return notes


def _openclip_config(config: Any) -> dict[str, Any]:
    vision, text = config.vision_config, config.text_config
    acts = f"{vision.hidden_act} and {text.hidden_act}"
    _require(acts in ("gelu and gelu", "quick_gelu and quick_gelu"), f"OpenCLIP has no {acts}")
    image = {key: getattr(vision, key) for key in ("image_size", "patch_size")}
    image["head_width"] = vision.hidden_size // vision.num_attention_heads
    words = {"context_length": text.max_position_embeddings, "vocab_size": text.vocab_size}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": _openclip_tower(vision) | image,
        "text_cfg": _openclip_tower(text) | words | {"heads": text.num_attention_heads},
    }


def _openclip_tower(config: Any) -> dict[str, Any]:
    ratio, eps = config.intermediate_size / config.hidden_size, config.layer_norm_eps
    sizes = {"width": config.hidden_size, "layers": config.num_hidden_layers, "mlp_ratio": ratio}
    return {**sizes, **({"norm_kwargs": {"eps": eps}} if eps != 1e-5 else {})}


def _preprocessing(processor: Any) -> dict[str, Any]:
    """Describe an image processor as OpenCLIP does; of what this leaves out, pixels tell."""
    named = {number: name for name, number in _RESAMPLE.items()}
    _require(processor.resample in named, f"OpenCLIP has no resample {processor.resample}")
    return {
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "interpolation": named[processor.resample],
        "resize_mode": "shortest" if processor.size["shortest_edge"] else "squash",
    }


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    write_atomically(path, safetensors.torch.save(tensors, {"format": "pt"}))


def _require_same(source: Encoder, written: Encoder) -> None:
    """Compare the pixels of a picture, and features of it and of texts."""
    side, both = source.transform(PIL.Image.new("RGB", (9, 9))).shape[-1], (source, written)
    # The margins of the crop are even: libraries round half a pixel differently.
    noise = np.random.default_rng(0).integers(0, 256, (2 * side, 6 * side, 3), np.uint8)
    pixels = [one.transform(PIL.Image.fromarray(noise))[None] for one in both]
    images = [one.encode_image(pixels[0]) for one in both]
    texts = [one.encode_text(one.tokenize(_TEXTS)) for one in both]
    for (what, most), (a, b) in zip(_MOST.items(), (pixels, images, texts), strict=True):
        differ = float((a - b).norm() / a.norm()) if a.shape == b.shape else float("inf")
        _require(differ <= most, f"its {what} would differ by {differ:.1e}, not at most {most:.0e}")
