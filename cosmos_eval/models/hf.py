"""Models with two towers, run by transformers (5): hf:FOLDER and hf:ORG/NAME[@REVISION]."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import PIL.Image
import torch
import transformers
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.hub import describe_error, quiet
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
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, Rgb, UsageError

_UNMASKED = ("siglip", "siglip2")  # models that were trained with padding that is not masked
# The first text is short, and the last one fills the context of any model.
_EXAMPLE_TEXTS = ("a", "a photo of two dogs on a red sofa", "a dog and a cat " * 500)
_FEATURE_TOLERANCE = 1e-5  # rounding may change the value of a feature by this much


class HfEncoder(TwoTower):
    """An Encoder around a model of transformers with two towers.

    `parts` are the model, its image processor and its tokenizer. The model has the methods
    `get_image_features` and `get_text_features`. `files` maps the names of the files of processor,
    tokenizer and configurations to their SHA-256s.
    """

    def __init__(self, parts: Sequence[Any], files: dict[str, str], info: EncoderInfo) -> None:
        self._model, self._processor, self._tokenizer = parts
        self.parts = tuple(parts)
        self._context = _context_length(self._model, self._tokenizer)
        image_mean: Rgb = (0.0, 0.0, 0.0)
        image_std: Rgb = (1.0, 1.0, 1.0)
        if getattr(self._processor, "do_normalize", False):
            image_mean = tuple(self._processor.image_mean)
            image_std = tuple(self._processor.image_std)
        super().__init__(
            name=info.spec,
            weights=self._model,
            transform=self._pixels,
            tokenize=partial(
                self._tokenizer,
                truncation=True,
                padding="max_length",
                max_length=self._context,
                return_tensors="pt",
            ),
            encode_image=self._image_features,
            encode_text=self._text_features,
            encode_patches=partial(encode_patches, self._model),
            patch_size=patch_size(self._model),
            image_mean=image_mean,
            image_std=image_std,
        )
        self.info = info
        self.to(info.device, info.precision)
        has_mask = "attention_mask" in self._tokenizer.model_input_names
        self._is_masked = has_mask and self._model.config.model_type not in _UNMASKED
        pads_right = not self._is_masked or self._tokenizer.padding_side == "right"
        require(pads_right, "its tokenizer must pad on the right, padding_side")
        self._trims_batches = self._is_masked
        self.added_texts = 0  # texts that are added to each batch
        pillow_filters = {2: "bilinear", 3: "bicubic"}
        resample = getattr(self._processor, "resample", 0)
        self.preprocessing = {
            "class": type(self._processor).__name__,
            "interpolation": pillow_filters.get(resample, "other"),
        }
        for name in IMAGE_FILES:
            if name in files:
                self.preprocessing[name] = files[name]
        self.tokenizer = {"class": type(self._tokenizer).__name__, **files}

    def refresh_info(self) -> None:
        """Keep `info`, which has the hash of the files of the weights."""

    def overlong(self, texts: Sequence[str]) -> Tensor:
        encoded = self._tokenizer([*texts], padding=False, truncation=False, verbose=False)
        return torch.tensor([len(ids) > self._context for ids in encoded["input_ids"]])

    def encode_text(self, tokens: Tensor) -> Tensor:
        if self._trims_batches:
            # Positions that are padding in all texts are cut off. The tokens are still on the CPU,
            # where counting them does not wait for a GPU.
            longest = int(self._mask(tokens).sum(1).max())
            tokens = tokens[:, :longest]
        return super().encode_text(tokens)

    def require_independent_texts(self) -> None:
        """Choose settings with which features do not depend on the other texts of a batch.

        Example texts are encoded one by one and together. If their features differ, padding is no
        longer cut off. If they still differ, a short text is added to each batch, so that there is
        padding. AIMv2 needs both: without padding, transformers drops the mask, and with it the
        causal attention. Raises UsageError if features still differ.
        """
        if self._texts_are_independent():
            return
        self._trims_batches = False
        if self._texts_are_independent():
            return
        self.added_texts = 1
        fault = "the feature of a text depends on the other texts of its batch"
        require(self._texts_are_independent(), f"{fault}; choose a model without that")

    def _texts_are_independent(self) -> bool:
        """Return whether example texts have the same features one by one and in one batch."""
        info = self.info
        self.info = info._replace(precision="fp32")
        try:
            tokens = self.tokenize(_EXAMPLE_TEXTS)
            together = self.encode_text(tokens)
            one_by_one = torch.cat([self.encode_text(row[None]) for row in tokens])
        finally:
            self.info = info
        return float((together - one_by_one).abs().max()) <= _FEATURE_TOLERANCE

    def _pixels(self, image: PIL.Image.Image) -> Tensor:
        """Return the pixels (3, H, W) float32 of an RGB image."""
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    def _image_features(self, images: Tensor) -> Tensor:
        """Return the features (B, D) of images (B, 3, H, W), which are not normalised."""
        output = self._model.get_image_features(pixel_values=images)
        return getattr(output, "pooler_output", output)

    def _text_features(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, L), which are not normalised."""
        n_texts = len(tokens)
        if self.added_texts:
            short_text = self.tokenize(_EXAMPLE_TEXTS[:1])
            tokens = torch.cat([tokens, short_text.to(tokens.device)])
        inputs = {"input_ids": tokens}
        if self._is_masked:
            inputs["attention_mask"] = self._mask(tokens).long()
        output = self._model.get_text_features(**inputs)
        return getattr(output, "pooler_output", output)[:n_texts]

    def _mask(self, tokens: Tensor) -> Tensor:
        """Return whether each token belongs to its text and not to the padding, (B, L)."""
        pad_id, end_id = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        # True up to the last token that is not the padding's.
        mask = (tokens != pad_id).flip(1).cumsum(1).flip(1) > 0
        if pad_id == end_id:  # in CLIP, the first of these tokens is the end of text
            mask = nn.functional.pad(mask[:, :-1], (1, 0), value=True)
        return mask


class NaflexEncoder(HfEncoder):
    """SigLIP 2 for any size (NaFlex): an image keeps its aspect, and has as many patches as fit.

    The tensor of an image is a row of patches side by side, (3, P, (N + 1) P) for at most N
    patches. First come the patches of the image, row by row, then padding, and then one more patch:
    the first two channels of its first pixel are the height and the width of the grid.
    """

    has_image_size = False

    def _pixels(self, image: PIL.Image.Image) -> Tensor:
        """Return the row of patches (3, P, (N + 1) P) float32 of an RGB image."""
        inputs = self._processor(images=image, return_tensors="pt")
        side = self._processor.patch_size
        patches = inputs["pixel_values"][0].float().unflatten(1, (side, side, 3))
        grid = torch.zeros_like(patches[:1])
        grid[0, 0, 0, :2] = inputs["spatial_shapes"][0]
        return torch.cat([patches, grid]).permute(3, 1, 0, 2).flatten(2)

    def _image_features(self, images: Tensor) -> Tensor:
        """Return the features (B, D) of rows of patches (B, 3, P, (N + 1) P), not normalised."""
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
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **OFFLINE)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **OFFLINE)
            files = {}
            for pattern in DESCRIBED:
                for file in folder.glob(pattern):
                    files[file.name] = file_sha256(file)
            info = EncoderInfo(
                spec=spec.text,
                architecture=type(config).__name__,
                weights=None,
                weights_sha256=weights_sha256(saved_weights(folder)),
                random=False,
                precision=precision,
                device=device,
                revision=commit,
            )
            encoder_class = NaflexEncoder if config.model_type == "siglip2" else HfEncoder
            encoder = encoder_class((model, processor, tokenizer), files, info)
            encoder.notes = notes
            require_encoder(encoder, "it")
            encoder.require_independent_texts()
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error
    except Exception as error:  # transformers and the hub's client raise errors of all types
        remedy = "; fetch its files again, or update transformers"
        if isinstance(error, ImportError):  # the error says which package is missing
            remedy = ""
        why = describe_error(error, remedy)
        raise UsageError(f"'{spec.text}' cannot be loaded: {why}") from error
    return encoder


def _context_length(model: nn.Module, tokenizer: Any) -> int:
    """Return the number of tokens that fit the text tower and the tokenizer.

    Raises UsageError if the tokenizer has ids that the text tower lacks, and if neither of them
    states a limit.
    """
    embeddings = {}  # of the text tower, by names such as position_embedding
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and ".text" in f".{path}":
            embeddings[path.rpartition(".")[2].rstrip("s")] = module
    token_embedding = embeddings.get("token_embedding", embeddings.get("word_embedding"))
    if token_embedding:
        fits = max(tokenizer.get_vocab().values()) < token_embedding.num_embeddings
        require(fits, "its tokenizer has ids that its text tower lacks; use that of its training")
    position_embedding, length = embeddings.get("position_embedding"), tokenizer.model_max_length
    if position_embedding:
        padding_position = position_embedding.padding_idx
        # RoBERTa's positions begin after the position of the padding.
        first = 0 if padding_position is None else padding_position + 1
        length = min(length, position_embedding.num_embeddings - first)
    # Without a limit, transformers has a larger number.
    require(length < 1e6, "no context length: set model_max_length of its tokenizer")
    return length
