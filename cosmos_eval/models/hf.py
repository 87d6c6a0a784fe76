"""Models with two towers as transformers (5) runs them: hf:FOLDER and hf:ORG/NAME[@REVISION].

Code of a repository is never run, and pickles are never opened. transformers makes up weights that
the files lack, and a tokenizer where there is none: both are refused here."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import transformers
from huggingface_hub import snapshot_download
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.hub import quiet, reason
from cosmos_eval.data.readers import read_json
from cosmos_eval.models import audit
from cosmos_eval.models.dense import encode_patches, patch_size
from cosmos_eval.models.encoder import require_encoder
from cosmos_eval.models.specs import DESCRIPTION, HUB, saved_weights, weights_sha256
from cosmos_eval.models.user import TwoTower
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError

_IMAGE_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
# Files that may ask to run code, and their keys of what transformers may have itself.
_STATED = {
    "config.json": "model_type",
    "preprocessor_config.json": "image_processor_type",
    "processor_config.json": "processor_class",
    "tokenizer_config.json": "tokenizer_class",
}
_DESCRIBED = ("*.json", "*.txt", "*.model")  # files of processors, tokenizers, configurations
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
OFFLINE = {"local_files_only": True, "trust_remote_code": False}


class HfEncoder(TwoTower):
    """An Encoder around a model with `get_image_features` and `get_text_features`, its image
    processor and its tokenizer (`parts`); `files` maps the names of their files to SHA-256."""

    def __init__(self, parts: Sequence[Any], files: dict[str, str], info: EncoderInfo) -> None:
        model, processor, tokenizer = self._model, self._processor, self._read = parts
        self.parts = tuple(parts)
        self._context = _context_length(model, tokenizer)
        options = {"padding": "max_length", "max_length": self._context, "return_tensors": "pt"}
        functions: Any = {"encode_image": self._image_features, "encode_text": self._text_features}
        functions["tokenize"] = partial(tokenizer, truncation=True, **options)
        functions["encode_patches"] = partial(encode_patches, model)
        functions["patch_size"] = patch_size(model)
        if getattr(processor, "do_normalize", False):
            functions["image_mean"] = tuple(processor.image_mean)
            functions["image_std"] = tuple(processor.image_std)
        super().__init__(name=info.spec, weights=model, transform=self._pixels, **functions)
        self.info = info
        self.to(info.device, info.precision)
        # SigLIP was trained with padding that is not masked.
        masked = "attention_mask" in tokenizer.model_input_names
        self._masked = masked and model.config.model_type != "siglip"
        sided = not self._masked or tokenizer.padding_side == "right"
        _require(sided, "its tokenizer must pad on the right, padding_side")
        read = {name: files[name] for name in _IMAGE_FILES if name in files}
        filters = {2: "bilinear", 3: "bicubic"}  # of PIL
        interpolation = filters.get(getattr(processor, "resample", 0), "other")
        known = {"class": type(processor).__name__, "interpolation": interpolation}
        self.preprocessing = {**known, **read}
        self.tokenizer = {"class": type(tokenizer).__name__, **files}

    def refresh_info(self) -> None:
        """Leave `info` alone: its hash is of the files of the weights."""

    def overlong(self, texts: Sequence[str]) -> Tensor:
        encoded = self._read([*texts], padding=False, truncation=False, verbose=False)
        return torch.tensor([len(ids) > self._context for ids in encoded["input_ids"]])

    def encode_text(self, tokens: Tensor) -> Tensor:
        if self._masked:
            # Positions masked in all texts change nothing; on a GPU it would wait for the count.
            tokens = tokens[:, : int(self._mask(tokens).sum(1).max())]
        return super().encode_text(tokens)

    def _pixels(self, image: PIL.Image.Image) -> Tensor:
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    def _image_features(self, images: Tensor) -> Tensor:
        output = self._model.get_image_features(pixel_values=images)
        return getattr(output, "pooler_output", output)

    def _text_features(self, tokens: Tensor) -> Tensor:
        given = {"attention_mask": self._mask(tokens).long()} if self._masked else {}
        output = self._model.get_text_features(input_ids=tokens, **given)
        return getattr(output, "pooler_output", output)

    def _mask(self, tokens: Tensor) -> Tensor:
        pad, end = self._read.pad_token_id, self._read.eos_token_id
        mask = (tokens != pad).flip(1).cumsum(1).flip(1) > 0  # all before the last that is none
        if pad == end:  # CLIP: the first of them is the end of text
            mask = nn.functional.pad(mask[:, :-1], (1, 0), value=True)
        return mask


def load(spec: ModelSpec, device: str, precision: Precision) -> HfEncoder:
    """Load a model. Raises UsageError where a file is missing or does not fit the others."""
    transformers.utils.logging.disable_progress_bar()
    try:
        with quiet():
            folder, commit = snapshot(spec.name)
            config, digest = _config(folder, spec.name), weights_sha256(saved_weights(folder))
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **OFFLINE)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **OFFLINE)
            files = {f.name: file_sha256(f) for names in _DESCRIBED for f in folder.glob(names)}
            own = type(config).__name__
            info = EncoderInfo(spec.text, own, None, digest, False, precision, device, None, commit)
            encoder = HfEncoder((load_model(folder, config), processor, tokenizer), files, info)
            require_encoder(encoder, "it")
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error
    except Exception as error:  # of transformers and the hub's client: all are faults of the files
        installed = not isinstance(error, ImportError)  # which says what is missing
        why = reason(error, "; fetch its files anew, or update transformers" if installed else "")
        raise UsageError(f"'{spec.text}' cannot be loaded: {why}") from error
    return encoder


def _require(holds: object, fault: str) -> None:
    if not holds:
        raise UsageError(fault)


def snapshot(name: str) -> tuple[Path, str | None]:
    """Return the folder of a model, and the commit of a repository, which is fetched."""
    if Path(name).is_dir():
        return Path(name), None
    repository, _, revision = name.partition("@")
    read = [*_DESCRIBED, "README.md", "model*.safetensors"]
    options: Any = {"allow_patterns": read, "ignore_patterns": "*/*"}
    found = snapshot_download(repository, revision=revision or None, **options)
    return Path(found), Path(found).name  # snapshots/COMMIT in the client's cache


def _config(folder: Path, name: str) -> Any:
    """Read the configuration of a model with two towers, and check for its other files."""
    own = name if Path(name).is_dir() else f"{HUB}{name.partition('@')[0]}"
    described = (folder / DESCRIPTION).is_file()
    other = f"use openclip:{own}" if described else "name what save_pretrained wrote"
    _require((folder / "config.json").is_file(), f"no config.json: {other}")
    for file, key in _STATED.items():
        asks = (folder / file).is_file() and b'"auto_map"' in (folder / file).read_bytes()
        needed = asks and not _is_known(read_json(folder / file), key)
        _require(not needed, f"{file} asks to run code (auto_map): refused; use python:FILE.py")
    for what, names in {"image processor": _IMAGE_FILES[1:], "tokenizer": _VOCABULARIES}.items():
        found = any(any(folder.glob(name)) for name in names)
        _require(found, f"no {what} ({names[0]}); save it with save_pretrained beside the weights")
    remedy = "name a revision with them (ORG/NAME@refs/pr/N), or convert them"
    _require(saved_weights(folder), f"no model.safetensors (pickles are never opened): {remedy}")
    config = transformers.AutoConfig.from_pretrained(folder, **OFFLINE)
    kind: Any = transformers.MODEL_MAPPING.get(type(config), None)
    towers = all(hasattr(kind, f"get_{tower}_features") for tower in ("image", "text"))
    _require(towers, f"{type(config).__name__} has not an image and a text tower; take e.g. CLIP")
    _require(config.model_type != "siglip2", "NaFlex is not run; choose a SigLIP 2 of one size")
    return config


def _is_known(stated: Any, key: str) -> bool:
    """Whether transformers has itself what a file names beside the code of its repository."""
    name = str(stated.get(key))
    known = name in transformers.CONFIG_MAPPING or hasattr(transformers, name)
    return "auto_map" in stated and known


def load_model(folder: Path, config: Any, **more: Any) -> Any:
    """Load the weights as float32. Raises UsageError where they do not fit the configuration."""
    options: Any = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    options |= {"config": config, "ignore_mismatched_sizes": True, **OFFLINE, **more}  # named below
    model, found = transformers.AutoModel.from_pretrained(folder, **options)
    missing = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    # Heads of a training may be left over, layers may not.
    unread = [key for key in found["unexpected_keys"] if any(map(str.isdigit, key.split(".")))]
    for fault, keys in {"lack or misshape": missing, "have, unlike config.json,": unread}.items():
        named = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
        _require(not keys, f"its weights {fault} {named}; fetch weights and config.json anew")
    audit.require_finite(model.state_dict(), str(folder))
    return model


def _context_length(model: nn.Module, tokenizer: Any) -> int:
    """Return how many tokens fit model and tokenizer. Raises UsageError where they do not agree."""
    modules = [(f".{p}", m) for p, m in model.named_modules() if isinstance(m, nn.Embedding)]
    of_text = {p.rpartition(".")[2].rstrip("s"): m for p, m in modules if ".text" in p}
    words = of_text.get("token_embedding", of_text.get("word_embedding"))
    known = not words or max(tokenizer.get_vocab().values()) < words.num_embeddings
    _require(known, "its tokenizer has ids that its text tower lacks; use that of its training")
    positions, length = of_text.get("position_embedding"), tokenizer.model_max_length
    if positions:  # RoBERTa's begin after that of the padding
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        length = min(length, positions.num_embeddings - first)
    # transformers' number for none is larger.
    _require(length < 1e6, "no context length: set model_max_length of its tokenizer")
    return length
