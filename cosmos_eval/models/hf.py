"""Models with two towers, run by transformers (5): hf:FOLDER and hf:ORG/NAME[@REVISION]."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import PIL.Image
import torch
import transformers
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256, json_sha256
from cosmos_eval.data.hub import describe_error, quiet
from cosmos_eval.models.dense import encode_patches, find_patch_size
from cosmos_eval.models.encoder import require_encoder, tensors_sha256
from cosmos_eval.models.hf_folder import (
    DESCRIBED,
    IMAGE_FILES,
    OFFLINE,
    fetch_folder,
    load_model,
    read_config,
    require,
)
from cosmos_eval.models.specs import find_saved_weights, weights_sha256
from cosmos_eval.models.user import TwoTower
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, Rgb, UsageError

_UNMASKED = ("siglip", "siglip2")  # models that were trained with padding that is not masked
# The first text is short, and the last one fills the context of any model.
_EXAMPLE_TEXTS = ("a", "a photo of two dogs on a red sofa", "a dog and a cat " * 500)
# Keys of a configuration that say where it was saved and by which version, and the saved type.
_FILE_KEYS = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
# Rounding may change the value of a feature by this much, in float32. In half precision it may by
# the distance from 1 to the next number: 0.0078 in bfloat16, 0.00098 in float16.
_FEATURE_TOLERANCE = 1e-5


class HfEncoder(TwoTower):
    """An Encoder around a model of transformers with two towers.

    Args:
        components: The model, its image processor and its tokenizer. The model has the methods
            `get_image_features` and `get_text_features`.
        sha256_by_file: The SHA-256s of the files of the processor, the tokenizer and their
            configurations, by file name.
        info: The facts that results record about the model, with its device and its precision.
    """

    def __init__(
        self, components: Sequence[Any], sha256_by_file: dict[str, str], info: EncoderInfo
    ) -> None:
        """Move the model to the device in `info`, and find out how it treats images and texts.

        Raises UsageError for a tokenizer that does not fit the model.
        """
        self._model, self._processor, self._tokenizer = components
        self.components = tuple(components)
        self._context_length = _find_context_length(self._model, self._tokenizer)
        image_mean: Rgb = (0.0, 0.0, 0.0)
        image_std: Rgb = (1.0, 1.0, 1.0)
        if getattr(self._processor, "do_normalize", False):
            image_mean = tuple(self._processor.image_mean)
            image_std = tuple(self._processor.image_std)
        super().__init__(
            name=info.spec,
            weights=self._model,
            # Not a bound method: pixels that are kept in memory must not keep the model.
            transform=partial(self._transform_image, self._processor),
            tokenize=partial(
                self._tokenizer,
                truncation=True,
                padding="max_length",
                max_length=self._context_length,
                return_tensors="pt",
            ),
            encode_image=self._encode_pixels,
            encode_text=self._encode_tokens,
            encode_patches=partial(encode_patches, self._model),
            patch_size=find_patch_size(self._model),
            image_mean=image_mean,
            image_std=image_std,
        )
        self.info = info
        self.to(info.device, info.precision)

        # Decide how the padding of texts is treated.
        has_mask = "attention_mask" in self._tokenizer.model_input_names
        self._masks_padding = has_mask and self._model.config.model_type not in _UNMASKED
        pads_right = not self._masks_padding or self._tokenizer.padding_side == "right"
        require(pads_right, "its tokenizer must pad on the right, padding_side")
        self._trims_batches = self._masks_padding
        self.added_texts = 0  # texts that are added to each batch

        # Describe the inputs, for the cache of embeddings and for results.
        self.preprocessing = _describe_processor(self._processor, sha256_by_file)
        self.tokenizer = {"class": type(self._tokenizer).__name__, **sha256_by_file}

    def refresh_info(self) -> None:
        """Leave `info` as it is: it has the hash of the files of the weights, not of tensors."""

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """Return whether each of B texts has more tokens than the context, (B,) bool."""
        encoded_texts = self._tokenizer([*texts], padding=False, truncation=False, verbose=False)
        n_tokens = [len(token_ids) for token_ids in encoded_texts["input_ids"]]
        return torch.tensor(n_tokens) > self._context_length

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the L2-normalised features (B, D) of tokens (B, L).

        If padding cannot change the features, positions that are padding in all texts are cut off.
        """
        if self._trims_batches:
            # The tokens are still on the CPU, where counting them does not wait for a GPU.
            longest = int(self._find_text_tokens(tokens).sum(1).max())
            tokens = tokens[:, :longest]
        return super().encode_text(tokens)

    def require_independent_texts(self) -> None:
        """Make sure that the feature of a text does not depend on the other texts of its batch.

        Example texts are encoded one by one and together. If their features differ, padding is no
        longer cut off. If they still differ, a short text is added to each batch, so that there is
        padding. AIMv2 needs both: without padding, transformers drops the mask, and with it the
        causal attention. Raises UsageError if features still differ.
        """
        if self._texts_are_independent():
            return

        # Keep the padding of each batch.
        self._trims_batches = False
        if self._texts_are_independent():
            return

        # Add a short text to each batch.
        self.added_texts = 1
        fault = "the feature of a text depends on the other texts of its batch"
        require(self._texts_are_independent(), f"{fault}; choose a model without that")

    def _texts_are_independent(self) -> bool:
        """Return whether example texts have the same features one by one and in one batch.

        They are encoded without autocast, so that features may only differ by the rounding of the
        type of the weights.
        """
        original_info = self.info
        self.info = original_info._replace(precision="fp32")
        try:
            tokens = self.tokenize(_EXAMPLE_TEXTS)
            batch_features = self.encode_text(tokens)
            single_features = torch.cat([self.encode_text(row[None]) for row in tokens])
        finally:
            self.info = original_info
        largest_difference = float((batch_features - single_features).abs().max())
        rounding = torch.finfo(self._model.dtype).eps
        return largest_difference <= max(_FEATURE_TOLERANCE, rounding)

    @staticmethod
    def _transform_image(processor: Any, image: PIL.Image.Image) -> Any:
        """Return the pixels (3, H, W) float32 of an RGB image, by an image processor."""
        inputs = processor(images=image, return_tensors="pt")
        return inputs["pixel_values"][0].float()

    def _encode_pixels(self, images: Any) -> Any:
        """Return the features (B, D) of images (B, 3, H, W), which are not normalised."""
        output = self._model.get_image_features(pixel_values=images)
        return getattr(output, "pooler_output", output)

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, L), which are not normalised."""
        n_texts = len(tokens)
        if self.added_texts:
            short_text = self.tokenize(_EXAMPLE_TEXTS[:1])
            tokens = torch.cat([tokens, short_text.to(tokens.device)])

        inputs = {"input_ids": tokens}
        if self._masks_padding:
            inputs["attention_mask"] = self._find_text_tokens(tokens).long()
        output = self._model.get_text_features(**inputs)

        # Some models return the features themselves, and some an object with them.
        features = getattr(output, "pooler_output", output)
        return features[:n_texts]  # without the short text

    def _find_text_tokens(self, tokens: Tensor) -> Tensor:
        """Return whether each of the tokens (B, L) belongs to its text, and not to its padding.

        The result is (B, L) bool. A text ends with its last token that is not padding. In CLIP, the
        id of the padding is the id of the end of text. There, the first of these tokens belongs to
        the text.

        Example:
            If the padding is 0, [5, 0, 7, 0, 0] gives [True, True, True, False, False]. If both
            the padding and the end of text are 9, [5, 7, 9, 9, 9] gives the same.
        """
        pad_id, end_id = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        has_other_id = tokens != pad_id
        # For each position, count the tokens with another id at this position and after it.
        n_from_here = has_other_id.flip(1).cumsum(1).flip(1)
        is_text_token = n_from_here > 0
        if pad_id == end_id:
            # Shift by one position, to include the first end of text.
            is_text_token = nn.functional.pad(is_text_token[:, :-1], (1, 0), value=True)
        return is_text_token


class NaflexEncoder(HfEncoder):
    """SigLIP 2 for any size (NaFlex): an image keeps its aspect, and has as many patches as fit.

    The processor pads the patches of an image to the largest number N that the model takes.
    """

    @staticmethod
    def _transform_image(processor: Any, image: PIL.Image.Image) -> dict[str, Tensor]:
        """Return the processor's output for an RGB image, as tensors that begin with (1, ...).

        They are the patches (1, N, P * P * 3), which of them belong to the image (1, N), and the
        height and the width of the image in patches (1, 2).
        """
        return dict(processor(images=image, return_tensors="pt"))

    def collate(self, images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of B images, which begin with (B, ...)."""
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

    def _encode_pixels(self, images: dict[str, Tensor]) -> Any:
        """Return the features (B, D) of a batch of images, which are not normalised."""
        return self._model.get_image_features(**images).pooler_output


def load(spec: ModelSpec, device: str, precision: Precision) -> HfEncoder:
    """Load a model of transformers from a folder or the hub, and return its encoder.

    Args:
        spec: The specification of hf:FOLDER or hf:ORG/NAME. Its `name` is what follows "hf:".
        device: The device of the model, such as "cpu".
        precision: The precision that it computes in.

    Raises:
        UsageError: If a file is missing or does not fit the others, and if the model cannot encode
            an example.
    """
    transformers.utils.logging.disable_progress_bar()
    try:
        with quiet():
            # Load the components.
            folder, commit = fetch_folder(spec.name)
            config = read_config(folder, spec.name)
            model, notes = load_model(folder, config)
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **OFFLINE)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **OFFLINE)

            # Describe the model for results and for the cache of embeddings.
            sha256_by_file = {}
            for pattern in DESCRIBED:
                for file in folder.glob(pattern):
                    sha256_by_file[file.name] = file_sha256(file)
            info = EncoderInfo(
                spec=spec.text,
                architecture=type(config).__name__,
                weights=None,
                weights_sha256=weights_sha256(find_saved_weights(folder)),
                random=False,
                precision=precision,
                device=device,
                revision=commit,
                loaded_sha256=_loaded_sha256(model, config),
                preprocessing_sha256=preprocessing_sha256(processor),
            )

            # Check that the encoder can encode an example.
            encoder_class = NaflexEncoder if config.model_type == "siglip2" else HfEncoder
            encoder = encoder_class((model, processor, tokenizer), sha256_by_file, info)
            encoder.notes = notes
            require_encoder(encoder, "it")
            encoder.require_independent_texts()
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error
    except Exception as error:  # transformers and the hub's client raise errors of all types
        advice = "; fetch its files again, or update transformers"
        if isinstance(error, ImportError):  # the error says which package is missing
            advice = ""
        reason = describe_error(error, advice)
        raise UsageError(f"'{spec.text}' cannot be loaded: {reason}") from error
    return encoder


def _loaded_sha256(model: nn.Module, config: Any) -> str:
    """Return the SHA-256 of a model's tensors and configuration, in any files.

    Keys of the configuration that state where it was saved, and by which version, do not count.
    """
    return json_sha256([tensors_sha256(model.state_dict()), _lasting_config(config.to_dict())])


def _lasting_config(config: Any) -> Any:
    """Return a configuration of transformers, or any value in it, without keys of its file.

    Example:
        {"depth": 12, "transformers_version": "5.0"} gives {"depth": 12}.
    """
    if isinstance(config, dict):
        return {
            key: _lasting_config(value) for key, value in config.items() if key not in _FILE_KEYS
        }
    return config


def preprocessing_sha256(processor: Any) -> str | None:
    """Return the SHA-256 of an image processor's settings; None for the defaults of its class.

    The settings are those that the class has, such as `size`, `image_mean` and `resample`.
    """
    settings = _lasting_config(json.loads(processor.to_json_string()))
    try:
        default_processor = type(processor)()
    except TypeError:  # the class needs arguments, so that nothing is usual
        return json_sha256(settings)
    default_settings = _lasting_config(json.loads(default_processor.to_json_string()))
    settings = {name: settings.get(name) for name in default_settings}
    return None if settings == default_settings else json_sha256(settings)


def _describe_processor(processor: Any, sha256_by_file: dict[str, str]) -> dict[str, str]:
    """Return everything that decides the pixels that an image processor of transformers returns.

    Args:
        processor: The image processor.
        sha256_by_file: The SHA-256s of files of the model, by file name. Only the files of the
            processor are returned.

    Example:
        {"class": "CLIPImageProcessor", "interpolation": "bicubic", "config.json": "<SHA-256>", ...}
    """
    interpolation_by_number = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    resample = getattr(processor, "resample", 0)
    description = {
        "class": type(processor).__name__,
        "interpolation": interpolation_by_number.get(resample, "other"),
    }
    for file_name in IMAGE_FILES:
        if file_name in sha256_by_file:
            description[file_name] = sha256_by_file[file_name]
    return description


def _find_context_length(model: nn.Module, tokenizer: Any) -> int:
    """Return the largest number of tokens that both the text tower and the tokenizer allow.

    The text tower allows as many tokens as it has positional embeddings.

    Args:
        model: A model of transformers.
        tokenizer: Its tokenizer.

    Raises:
        UsageError: If the tokenizer has ids that the text tower lacks, and if neither of them
            states a limit.
    """
    # Find the embeddings of the text tower: the module text_model.embeddings.position_embeddings
    # gets the key "position_embedding".
    embedding_by_name = {}
    for path, module in model.named_modules():
        is_in_text_tower = ".text" in f".{path}"
        if isinstance(module, nn.Embedding) and is_in_text_tower:
            name = path.rpartition(".")[2].rstrip("s")
            embedding_by_name[name] = module

    # Compare the ids of the tokenizer with the embeddings of tokens.
    token_embedding = embedding_by_name.get("token_embedding")
    if token_embedding is None:
        token_embedding = embedding_by_name.get("word_embedding")
    if token_embedding is not None:
        fits = max(tokenizer.get_vocab().values()) < token_embedding.num_embeddings
        fault = "its tokenizer has ids that its text tower lacks; use the tokenizer of its training"
        require(fits, fault)

    # Take the smaller limit.
    length = tokenizer.model_max_length
    position_embedding = embedding_by_name.get("position_embedding")
    if position_embedding is not None:
        padding_position = position_embedding.padding_idx
        # RoBERTa's positions begin after the position of the padding.
        first_position = 0 if padding_position is None else padding_position + 1
        length = min(length, position_embedding.num_embeddings - first_position)
    # A tokenizer without a limit has a number far beyond this one.
    require(length < 1e6, "no context length: set model_max_length of its tokenizer")
    return length
