"""COSMOS models: released ones, bundled ones, and checkpoint files of either layout."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import SimpleTokenizer, basic_clean, whitespace_clean
from open_clip.transform import PreprocessCfg
from torch import Tensor
from torch.nn import functional as F

import cosmos_core
from cosmos_core.data.scenes import VERSION_1, VERSION_2
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.model.build import model_config
from cosmos_core.model.flair import Flair
from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.readers import parse_json
from cosmos_eval.models import audit
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.dense import crop_to_whole_patches
from cosmos_eval.models.encoder import Parts, run_on_device, run_parts_on_device
from cosmos_eval.models.hub import fetch
from cosmos_eval.models.specs import RELEASED, local_weights
from cosmos_eval.models.weight_files import require_weights
from cosmos_eval.types import (
    Attention,
    CaptionWord,
    EncoderInfo,
    ModelSpec,
    Precision,
    UsageError,
)

_CONNECTING_MARKS = ("-", "'", ".", "_")  # marks that join the letters or digits at both sides


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a COSMOS checkpoint and return its encoder.

    Args:
        spec: Names the checkpoint: a released one, which is fetched from the hub, a bundled one, or
            a file. It also chooses the teacher's or the student's weights.
        device: The device of the model, such as "cpu" or "cuda:0".
        precision: The precision that it computes in.

    Raises:
        UsageError: If the checkpoint is missing, cannot be fetched, or does not fit its
            architecture.
    """
    # Find the file of the checkpoint.
    if spec.name in RELEASED:
        path = fetch(spec.name)
    else:
        files = local_weights(spec)
        path = files[0] if files else Path(spec.name)
    if path.is_file():
        require_weights(path)

    # Load the model.
    try:
        config = _read_architecture(path, spec.arch)
        model = cosmos_core.load_model(path, config, weights=spec.weights)
    except ValueError as error:
        raise UsageError(f"'{spec.text}': {error}") from error
    audit.require_finite(model.state_dict(), f"{spec.weights} of {path}")

    # Describe it for results. The path of a JSON file would say nothing there: they get the whole
    # configuration, unless the architecture has a name.
    architecture = json.dumps(config, sort_keys=True)
    if spec.arch in open_clip.list_models():
        architecture = str(spec.arch)
    info = EncoderInfo(
        spec=spec.text,
        architecture=architecture,
        weights=spec.weights,
        weights_sha256=file_sha256(path),
        random=False,
        precision=precision,
        device=device,
    )
    preprocessing = _make_preprocessing(model.visual.image_size, config)
    tokenizer = _make_tokenizer(model.vocab_size, model.context_length)
    if isinstance(model, Flair):
        return PooledEncoder(model, preprocessing, tokenizer, info)
    if isinstance(model, cosmos_core.Cosmos):
        return CosmosEncoder(model, preprocessing, tokenizer, info)
    return ClipEncoder(model, preprocessing, tokenizer, info)


class PooledEncoder(ClipEncoder):
    """A PairScorer: a model in which a text pools the tokens of an image, such as FLAIR."""

    pair_score = "cosine of the text and of what it pools from the image"

    def image_parts(self, images: Tensor) -> Parts:
        """Return the two tensors (B, ...) that `pair_scores` needs of images (B, 3, H, W)."""
        return run_parts_on_device(self.info, self.model.image_parts, images)

    def text_parts(self, tokens: Tensor) -> Parts:
        """Return the two tensors (T, ...) that `pair_scores` needs of tokens (T, L)."""
        return run_parts_on_device(self.info, self.model.text_parts, tokens)

    def pair_scores(self, images: Parts, texts: Parts) -> Tensor:
        """Return the scores (B, T) of B images and T texts.

        Args:
            images: The two tensors (B, ...) that `image_parts` returned.
            texts: The two tensors (T, ...) that `text_parts` returned.
        """

        def score_tensors(
            first_image: Tensor, second_image: Tensor, first_text: Tensor, second_text: Tensor
        ) -> Tensor:
            """Score images and texts. `run_on_device` passes tensors as separate arguments."""
            return self.model.pair_scores((first_image, second_image), (first_text, second_text))

        return run_on_device(self.info, score_tensors, *images, *texts)


class CosmosEncoder(PooledEncoder):
    """A CrossAttentionEncoder and a PairScorer: a model with the cross-attention of COSMOS."""

    pair_score = "mean cosine of image, text and cross-modal features"
    openclip_tokenizer: SimpleTokenizer

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """Return the L2-normalised features of patches, (B, H // patch, W // patch, D).

        Args:
            images: Pixels (B, 3, H, W).
            attention: With "crossmodal", the features are the values of the cross-attention that
                pools the image, W_o v + b_o. With any other form of attention, the features come
                from the last block of the image tower.
        """
        if attention != "crossmodal":
            return super().encode_patches(images, attention)
        cropped_images = crop_to_whole_patches(images, self.patch_size)
        values = run_on_device(self.info, self.model.patch_values, cropped_images)
        return F.normalize(values, dim=-1)

    def words(self, text: str) -> list[CaptionWord]:
        """Return all words of a text with the positions of their tokens."""
        return split_words(self.openclip_tokenizer, text)

    def image_queries(self, images: Tensor) -> Tensor:
        """Return the features (B, D) of images (B, 3, H, W), which are not normalised."""
        return run_on_device(self.info, self.model.encode_image, images)

    def text_queries(self, tokens: Tensor) -> Tensor:
        """Return the features (T, D) of tokens (T, L), which are not normalised."""
        return run_on_device(self.info, self._encode_tokens, tokens)

    def patch_attention(self, images: Tensor, queries: Tensor) -> Tensor:
        """Return the weights (B, heads, T, h, w) by which queries (T, D) attend to h x w patches.

        Each image (B, 3, H, W) is cut into patches. The queries are the features of texts.
        """
        return run_on_device(self.info, self.model.patch_attention, images, queries)

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Return the weights (T, heads, B, L) by which queries (B, D) attend to tokens (T, L).

        The queries are the features of images.
        """
        return run_on_device(self.info, self.model.token_attention, tokens, queries)


def _read_architecture(path: Path, arch: str | None) -> dict[str, Any]:
    """Return OpenCLIP's configuration of a checkpoint's architecture.

    Args:
        path: The file of the checkpoint, which may state its architecture.
        arch: The architecture that the user names, if any: a name of OpenCLIP such as "ViT-B-16",
            the path of a JSON file, or JSON itself.

    Raises:
        UsageError: If neither the file nor the user states it, and if both do and differ.

    Example:
        `{"embed_dim": 512, "vision_cfg": {...}, "text_cfg": {...}}`
    """
    stated_architecture = cosmos_core.read_checkpoint(path).architecture
    if arch is None:
        if stated_architecture is None:
            raise UsageError(f"{path} does not state its architecture: name it with --arch")
        return model_config(stated_architecture)

    named_architecture = parse_json(arch) if arch.startswith("{") else arch
    named_config = model_config(named_architecture)
    if stated_architecture is None:
        return named_config

    # `differences` is empty if they are the same.
    differences = audit.describe_config_differences(stated_architecture, named_config)
    if differences:
        raise UsageError(
            f"{path} states another architecture than {arch}: {differences}; leave --arch out"
        )
    return model_config(stated_architecture)


def _make_preprocessing(image_size: tuple[int, int], config: Mapping[str, Any]) -> PreprocessCfg:
    """Return the settings by which COSMOS's images are resized, cropped and normalised.

    Args:
        image_size: The height and width of the model's images.
        config: OpenCLIP's configuration of the model. Its section "preprocess" may state mean and
            std. By default, they are OpenCLIP's.

    Raises:
        UsageError: If the configuration states other settings, such as another interpolation.
    """
    stated_settings = config.get("preprocess", {})
    preprocessing = PreprocessCfg(image_size, resize_mode="shortest", interpolation="bicubic")
    if stated_settings.get("mean"):
        preprocessing = replace(preprocessing, mean=tuple(stated_settings["mean"]))
    if stated_settings.get("std"):
        preprocessing = replace(preprocessing, std=tuple(stated_settings["std"]))

    # `differences` is empty if all stated settings are the ones above.
    differences = audit.describe_stated_differences(stated_settings, asdict(preprocessing))
    if differences:
        raise UsageError(
            f"'preprocess' of this architecture is not supported: {differences}; images are "
            "preprocessed as COSMOS's are, and only mean and std can be chosen"
        )
    return preprocessing


def _make_tokenizer(vocab_size: int, context_length: int) -> SimpleTokenizer:
    """Return the tokenizer that has a vocabulary of a model's size.

    It is OpenCLIP's own tokenizer, or a small one of models that know only the words of synthetic
    scenes of version 1 or 2.

    Args:
        vocab_size: The number of tokens that the model knows.
        context_length: The number of tokens of a text that the model reads.

    Raises:
        UsageError: If no tokenizer has a vocabulary of this size.
    """
    tokenizers = [
        SimpleTokenizer(context_length=context_length),
        scenes_tokenizer(context_length, VERSION_1),
        scenes_tokenizer(context_length, VERSION_2),
    ]
    for tokenizer in tokenizers:
        if tokenizer.vocab_size == vocab_size:
            return tokenizer
    sizes = " or ".join(str(tokenizer.vocab_size) for tokenizer in tokenizers)
    raise UsageError(f"no tokenizer for a vocabulary of {vocab_size} tokens, only for {sizes}")


def split_words(tokenizer: SimpleTokenizer, text: str) -> list[CaptionWord]:
    """Return all words of a text with the positions of their tokens, and capitals if possible.

    OpenCLIP's tokenizer first cuts a text into pieces: letters, single digits, endings such as 's,
    and runs of other marks. Each piece has one or more tokens. Here, letters and digits that touch
    are joined to one word again, also with a connecting mark between them. Other marks are words of
    their own, because a model may attend to a full stop.

    Args:
        tokenizer: OpenCLIP's own tokenizer.
        text: A caption.

    Example:
        "A t-shirt of 2024." has the words "A", "t-shirt", "of", "2024" and ".".
    """
    cleaned_text = tokenizer.clean_fn(text)  # in lower case
    # The same text with the user's capitals. Some capitals become two characters in lower case,
    # which would move the positions. Then the text in lower case is used.
    spelling = whitespace_clean(basic_clean(text))
    has_same_positions = len(spelling) == len(cleaned_text) and spelling.lower() == cleaned_text
    if not has_same_positions:
        spelling = cleaned_text

    words: list[CaptionWord] = []
    position = 1  # of the next token; position 0 is the start of text
    for unspaced_run in re.finditer(r"\S+", cleaned_text):
        pieces = [*tokenizer.pat.finditer(cleaned_text, *unspaced_run.span())]
        is_joinable = _find_joinable_pieces([piece[0] for piece in pieces])
        for index, piece in enumerate(pieces):
            # The tokenizer spells each byte of a piece as a letter, and separates tokens by spaces.
            byte_letters = "".join(tokenizer.byte_encoder[byte] for byte in piece[0].encode())
            n_tokens = tokenizer.bpe(byte_letters).count(" ") + 1
            stop = position + n_tokens
            piece_spelling = spelling[piece.start() : piece.end()]
            belongs_to_last_word = index > 0 and is_joinable[index - 1] and is_joinable[index]
            if belongs_to_last_word:
                last_word = words.pop()
                word = last_word._replace(text=last_word.text + piece_spelling, stop=stop)
            else:
                is_spaced = index == 0 and len(words) > 0
                word = CaptionWord(piece_spelling, position, stop, is_spaced)
            words.append(word)
            position = stop
    return words


def _find_joinable_pieces(pieces: Sequence[str]) -> list[bool]:
    """Return whether each piece of a text without spaces can be joined to its neighbours.

    Letters and digits can be joined, and so can a connecting mark (- ' . _) between them.

    Example:
        ["t", "-", "shirt", "."] gives [True, True, True, False].
    """
    has_letters = [_has_letters(piece) for piece in pieces]
    is_joinable = [*has_letters]
    for index in range(1, len(pieces) - 1):
        is_between_letters = has_letters[index - 1] and has_letters[index + 1]
        if pieces[index] in _CONNECTING_MARKS and is_between_letters:
            is_joinable[index] = True
    return is_joinable


def _has_letters(piece: str) -> bool:
    """Return whether a piece of a text has letters, digits, or vowel signs as in Hindi."""
    for character in piece:
        is_vowel_sign = unicodedata.category(character).startswith("M")
        if character.isalnum() or is_vowel_sign:
            return True
    return False
