"""COSMOS models: released ones, bundled ones, and checkpoint files of either layout."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import SimpleTokenizer, basic_clean, whitespace_clean
from open_clip.transform import PreprocessCfg
from torch import Tensor
from torch.nn import functional as F

import cosmos_core
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.model.build import model_config
from cosmos_core.model.flair import Flair
from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.readers import parse_json
from cosmos_eval.models import audit
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.dense import whole_patches
from cosmos_eval.models.encoder import Parts, run, run_parts
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

_CONNECTING = ("-", "'", ".", "_")  # marks that join the letters or digits at both sides


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a checkpoint and return its encoder.

    Raises UsageError if it is missing, cannot be fetched, or does not fit its architecture.
    """
    if spec.name in RELEASED:
        path = fetch(spec.name)
    else:
        files = local_weights(spec)
        path = files[0] if files else Path(spec.name)
    if path.is_file():
        require_weights(path)
    try:
        config = _config(path, spec.arch)
        model = cosmos_core.load_model(path, config, weights=spec.weights)
    except ValueError as error:
        raise UsageError(f"'{spec.text}': {error}") from error
    audit.require_finite(model.state_dict(), f"{spec.weights} of {path}")
    # The path of a JSON file would say nothing in results: they get the whole configuration.
    architecture = json.dumps(config, sort_keys=True)
    if spec.arch in open_clip.list_models():
        architecture = str(spec.arch)
    info = EncoderInfo(
        spec.text,
        architecture,
        spec.weights,
        file_sha256(path),
        random=False,
        precision=precision,
        device=device,
    )
    preprocessing = _preprocessing(model.visual.image_size, config)
    tokenizer = _tokenizer(model.vocab_size, model.context_length)
    if isinstance(model, Flair):
        return PooledEncoder(model, preprocessing, tokenizer, info)
    if isinstance(model, cosmos_core.Cosmos):
        return CosmosEncoder(model, preprocessing, tokenizer, info)
    return ClipEncoder(model, preprocessing, tokenizer, info)


class PooledEncoder(ClipEncoder):
    """A PairScorer: a model with text-conditioned pooling, such as FLAIR."""

    pair_score = "cosine of the text and of what it pools from the image"

    def image_parts(self, images: Tensor) -> Parts:
        return run_parts(self.info, self.model.image_parts, images)

    def text_parts(self, tokens: Tensor) -> Parts:
        return run_parts(self.info, self.model.text_parts, tokens)

    def pair_scores(self, images: Parts, texts: Parts) -> Tensor:
        def scores_of_parts(*parts: Tensor) -> Tensor:
            return self.model.pair_scores(parts[:2], parts[2:])

        return run(self.info, scores_of_parts, *images, *texts)


class CosmosEncoder(PooledEncoder):
    """A CrossAttentionEncoder and a PairScorer: a model with the cross-attention of COSMOS."""

    pair_score = "mean cosine of image, text and cross-modal features"
    openclip_tokenizer: SimpleTokenizer

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """Return the features of the patches of images, (B, H // patch, W // patch, D).

        They are L2-normalised. With attention `crossmodal`, they are the values of the image's
        pooler, W_o v + b_o, instead of the patches of the last block.
        """
        if attention != "crossmodal":
            return super().encode_patches(images, attention)
        cropped_images = whole_patches(images, self.patch_size)
        return F.normalize(run(self.info, self.model.patch_values, cropped_images), dim=-1)

    def words(self, text: str) -> list[CaptionWord]:
        return words_of(self.openclip_tokenizer, text)

    def image_queries(self, images: Tensor) -> Tensor:
        return run(self.info, self.model.encode_image, images)

    def text_queries(self, tokens: Tensor) -> Tensor:
        return run(self.info, self._encode_tokens, tokens)

    def patch_attention(self, images: Tensor, queries: Tensor) -> Tensor:
        return run(self.info, self.model.patch_attention, images, queries)

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        return run(self.info, self.model.token_attention, tokens, queries)


def _config(path: Path, arch: str | None) -> dict[str, Any]:
    """Return the configuration of a checkpoint's architecture.

    It is the architecture that the file states, or else `arch`, which the user names. Raises
    UsageError if there is neither, and if both are given and differ.
    """
    stated = cosmos_core.read_checkpoint(path).architecture
    if arch is None:
        if stated is None:
            raise UsageError(f"{path} does not state its architecture: name it with --arch")
        return model_config(stated)
    # A name, a JSON file, or JSON as in results.
    named = model_config(parse_json(arch) if arch.startswith("{") else arch)
    if stated is None:
        return named
    differences = audit.config_differences(stated, named)
    if differences:
        raise UsageError(
            f"{path} states another architecture than {arch}: {differences}; leave --arch out"
        )
    return model_config(stated)


def _preprocessing(size: tuple[int, int], config: Mapping[str, Any]) -> PreprocessCfg:
    """Return COSMOS's preprocessing, with the mean and std of a configuration.

    Raises UsageError if the configuration states another preprocessing.
    """
    stated = config.get("preprocess", {})
    moments = {key: tuple(stated[key]) for key in ("mean", "std") if stated.get(key)}
    preprocessing = PreprocessCfg(size, resize_mode="shortest", interpolation="bicubic", **moments)
    differences = audit.stated_differences(stated, asdict(preprocessing))
    if differences:
        raise UsageError(
            f"'preprocess' of this architecture is not supported: {differences}; images are "
            "preprocessed as COSMOS's are, and only mean and std can be chosen"
        )
    return preprocessing


def _tokenizer(vocab_size: int, context_length: int) -> SimpleTokenizer:
    """Return the tokenizer with the model's vocabulary: OpenCLIP's or the scenes'.

    Raises UsageError for a vocabulary of another size.
    """
    tokenizers = [
        SimpleTokenizer(context_length=context_length),
        scenes_tokenizer(context_length=context_length),
    ]
    for tokenizer in tokenizers:
        if tokenizer.vocab_size == vocab_size:
            return tokenizer
    sizes = " or ".join(str(tokenizer.vocab_size) for tokenizer in tokenizers)
    raise UsageError(f"no tokenizer for a vocabulary of {vocab_size} tokens, only for {sizes}")


def words_of(tokenizer: SimpleTokenizer, text: str) -> list[CaptionWord]:
    """Return all words of a text with the positions of their tokens, and capitals if possible.

    OpenCLIP's tokenizer cuts a text into letters, single digits, endings such as 's, and runs of
    other marks. Here, letters and digits that touch are joined to one word again, also with a
    connecting mark between them. Other marks are words of their own, because a model may attend to
    a full stop. For example, "A t-shirt of 2024." has the words A, t-shirt, of, 2024 and ".".
    """
    cleaned = tokenizer.clean_fn(text)
    spelling = _with_capitals(text, cleaned)
    words: list[CaptionWord] = []
    position = 1  # of the next token; position 0 is the start of text
    for chunk in re.finditer(r"\S+", cleaned):
        pieces = [*tokenizer.pat.finditer(cleaned, *chunk.span())]
        is_joinable = _joinable([piece[0] for piece in pieces])
        for index, piece in enumerate(pieces):
            byte_letters = "".join(tokenizer.byte_encoder[byte] for byte in piece[0].encode())
            n_tokens = tokenizer.bpe(byte_letters).count(" ") + 1
            piece_text = spelling[piece.start() : piece.end()]
            if index > 0 and is_joinable[index - 1] and is_joinable[index]:
                word = words.pop()
                word = word._replace(text=word.text + piece_text, stop=position + n_tokens)
            else:
                is_spaced = index == 0 and len(words) > 0
                word = CaptionWord(piece_text, position, position + n_tokens, is_spaced)
            words.append(word)
            position += n_tokens
    return words


def _joinable(pieces: Sequence[str]) -> list[bool]:
    """Return whether each piece of a text without spaces can be joined to its neighbours.

    Letters (with vowel signs, category M) and digits can be joined, and so can a connecting mark
    between them. For example, ["t", "-", "shirt", "."] gives [True, True, True, False].
    """
    has_letters = [_has_letters(piece) for piece in pieces]
    is_joinable = [*has_letters]
    for index in range(1, len(pieces) - 1):
        is_between_letters = has_letters[index - 1] and has_letters[index + 1]
        if pieces[index] in _CONNECTING and is_between_letters:
            is_joinable[index] = True
    return is_joinable


def _has_letters(piece: str) -> bool:
    """Return whether a piece of a text has letters, vowel signs (category M) or digits."""
    return any(
        character.isalnum() or unicodedata.category(character)[0] == "M" for character in piece
    )


def _with_capitals(text: str, cleaned: str) -> str:
    """Return the cleaned text with the user's capitals, if it differs in nothing else."""
    spelling = whitespace_clean(basic_clean(text))
    # Some capitals become two characters in lower case, which moves the positions.
    if len(spelling) == len(cleaned) and spelling.lower() == cleaned:
        return spelling
    return cleaned
