"""Models with two towers as transformers (5) runs them: hf:FOLDER and hf:ORG/NAME[@REVISION]."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import PIL.Image
import torch
import transformers
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.hub import quiet, reason
from cosmos_eval.models.dense import encode_patches, patch_size
from cosmos_eval.models.encoder import require_encoder
from cosmos_eval.models.hf_folder import (
    DESCRIBED,
    IMAGE_FILES,
    OFFLINE,
    load_model,
    read_config,
    require,
    snapshot,
)
from cosmos_eval.models.specs import saved_weights, weights_sha256
from cosmos_eval.models.user import TwoTower
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError

_UNMASKED = ("siglip", "siglip2")  # trained with padding that is not masked
# Texts of which one is short, and one fills every context.
_TEXTS = ("a", "a photo of two dogs on a red sofa", "a dog and a cat " * 500)
_SAME_TEXT = 1e-5  # how far rounding may move the feature of a text


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
        masked = "attention_mask" in tokenizer.model_input_names
        self._masked = masked and model.config.model_type not in _UNMASKED
        sided = not self._masked or tokenizer.padding_side == "right"
        require(sided, "its tokenizer must pad on the right, padding_side")
        self._trims_batches = self._masked
        self.added_texts = 0  # to every batch
        read = {name: files[name] for name in IMAGE_FILES if name in files}
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
        if self._trims_batches:
            # Positions masked in all texts change nothing; on a GPU it would wait for the count.
            tokens = tokens[:, : int(self._mask(tokens).sum(1).max())]
        return super().encode_text(tokens)

    def require_independent_texts(self) -> None:
        """Encode texts alone and together, until both give the same features: if padding that is
        masked in all texts changes them, it is kept; if texts without padding still do, a short
        text is added to every batch. Raises UsageError if that does not help either.

        AIMv2 needs both: transformers drops a mask without padding, and causality with it."""
        if self._texts_are_independent():
            return
        self._trims_batches = False
        if self._texts_are_independent():
            return
        self.added_texts = 1
        fault = "the feature of a text depends on the other texts of its batch"
        require(self._texts_are_independent(), f"{fault}; choose a model without that")

    def _texts_are_independent(self) -> bool:
        info = self.info
        self.info = info._replace(precision="fp32")
        try:
            tokens = self.tokenize(_TEXTS)
            together = self.encode_text(tokens)
            alone = torch.cat([self.encode_text(row[None]) for row in tokens])
        finally:
            self.info = info
        return float((together - alone).abs().max()) <= _SAME_TEXT

    def _pixels(self, image: PIL.Image.Image) -> Tensor:
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    def _image_features(self, images: Tensor) -> Tensor:
        output = self._model.get_image_features(pixel_values=images)
        return getattr(output, "pooler_output", output)

    def _text_features(self, tokens: Tensor) -> Tensor:
        n = len(tokens)
        if self.added_texts:
            short_text = self.tokenize(_TEXTS[:1])
            tokens = torch.cat([tokens, short_text.to(tokens.device)])
        given = {"attention_mask": self._mask(tokens).long()} if self._masked else {}
        output = self._model.get_text_features(input_ids=tokens, **given)
        return getattr(output, "pooler_output", output)[:n]

    def _mask(self, tokens: Tensor) -> Tensor:
        pad, end = self._read.pad_token_id, self._read.eos_token_id
        mask = (tokens != pad).flip(1).cumsum(1).flip(1) > 0  # all before the last that is none
        if pad == end:  # CLIP: the first of them is the end of text
            mask = nn.functional.pad(mask[:, :-1], (1, 0), value=True)
        return mask


class NaflexEncoder(HfEncoder):
    """SigLIP 2 of any size (NaFlex): an image keeps its aspect, and has as many patches as fit.

    A transformed image is its patches side by side, (3, P, (N + 1) P) for N patches at most: those
    of the image, row by row, then padding, then one whose first pixel has the height and the width
    of the grid in its first two channels."""

    has_image_size = False

    def _pixels(self, image: PIL.Image.Image) -> Tensor:
        inputs = self._processor(images=image, return_tensors="pt")
        side = self._processor.patch_size
        patches = inputs["pixel_values"][0].float().unflatten(1, (side, side, 3))
        grid = torch.zeros_like(patches[:1])
        grid[0, 0, 0, :2] = inputs["spatial_shapes"][0]
        return torch.cat([patches, grid]).permute(3, 1, 0, 2).flatten(2)

    def _image_features(self, images: Tensor) -> Tensor:
        side = images.shape[2]
        patches = images.unflatten(3, (-1, side)).permute(0, 3, 2, 4, 1)  # (B, N + 1, P, P, 3)
        grids = patches[:, -1, 0, 0, :2].long()
        pixels = patches[:, :-1].flatten(2)
        positions = torch.arange(pixels.shape[1], device=images.device)
        mask = positions < grids.prod(dim=1, keepdim=True)
        output = self._model.get_image_features(
            pixel_values=pixels, pixel_attention_mask=mask.int(), spatial_shapes=grids
        )
        return output.pooler_output


def load(spec: ModelSpec, device: str, precision: Precision) -> HfEncoder:
    """Load a model. Raises UsageError if a file is missing or does not fit the others."""
    transformers.utils.logging.disable_progress_bar()
    try:
        with quiet():
            folder, commit = snapshot(spec.name)
            config = read_config(folder, spec.name)
            model, notes = load_model(folder, config)
            digest = weights_sha256(saved_weights(folder))
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **OFFLINE)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **OFFLINE)
            files = {f.name: file_sha256(f) for names in DESCRIBED for f in folder.glob(names)}
            architecture = type(config).__name__
            info = EncoderInfo(
                spec.text, architecture, None, digest, False, precision, device, None, commit
            )
            encoder_class = NaflexEncoder if config.model_type == "siglip2" else HfEncoder
            encoder = encoder_class((model, processor, tokenizer), files, info)
            encoder.notes = notes
            require_encoder(encoder, "it")
            encoder.require_independent_texts()
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error
    except Exception as error:  # of transformers and the hub's client: all are faults of the files
        installed = not isinstance(error, ImportError)  # which says what is missing
        why = reason(error, "; fetch its files anew, or update transformers" if installed else "")
        raise UsageError(f"'{spec.text}' cannot be loaded: {why}") from error
    return encoder


def _context_length(model: nn.Module, tokenizer: Any) -> int:
    """Return how many tokens fit model and tokenizer. Raises UsageError where they do not agree."""
    modules = [(f".{p}", m) for p, m in model.named_modules() if isinstance(m, nn.Embedding)]
    of_text = {p.rpartition(".")[2].rstrip("s"): m for p, m in modules if ".text" in p}
    words = of_text.get("token_embedding", of_text.get("word_embedding"))
    known = not words or max(tokenizer.get_vocab().values()) < words.num_embeddings
    require(known, "its tokenizer has ids that its text tower lacks; use that of its training")
    positions, length = of_text.get("position_embedding"), tokenizer.model_max_length
    if positions:  # RoBERTa's begin after that of the padding
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        length = min(length, positions.num_embeddings - first)
    # transformers' number for none is larger.
    require(length < 1e6, "no context length: set model_max_length of its tokenizer")
    return length
