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

_CONNECTING = ("-", "'", ".", "_")  # marks that make one word of what is at both sides


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a checkpoint. Raises UsageError where it is missing, unfit or cannot be fetched."""
    own = local_weights(spec) or [Path(spec.name)]
    path = fetch(spec.name) if spec.name in RELEASED else own[0]
    if path.is_file():
        require_weights(path)
    try:
        config = _config(path, spec.arch)
        model = cosmos_core.load_model(path, config, weights=spec.weights)
    except ValueError as error:
        raise UsageError(f"'{spec.text}': {error}") from error
    audit.require_finite(model.state_dict(), f"{spec.weights} of {path}")
    # OpenCLIP's name, or the whole configuration: the name of a file says nothing.
    named = spec.arch if spec.arch in open_clip.list_models() else None
    described, digest = named or json.dumps(config, sort_keys=True), file_sha256(path)
    info = EncoderInfo(spec.text, described, spec.weights, digest, False, precision, device)
    kind = CosmosEncoder if isinstance(model, cosmos_core.Cosmos) else ClipEncoder
    kind = PooledEncoder if isinstance(model, Flair) else kind
    tokenizer = _tokenizer(model.vocab_size, model.context_length)
    return kind(model, _preprocessing(model.visual.image_size, config), tokenizer, info)


class PooledEncoder(ClipEncoder):
    """A PairScorer: a model with text-conditioned pooling, as FLAIR's."""

    pair_score = "cosine of the text and of what it pools from the image"

    def image_parts(self, images: Tensor) -> Parts:
        return run_parts(self.info, self.model.image_parts, images)

    def text_parts(self, tokens: Tensor) -> Parts:
        return run_parts(self.info, self.model.text_parts, tokens)

    def pair_scores(self, images: Parts, texts: Parts) -> Tensor:
        return run(
            self.info, lambda *parts: self.model.pair_scores(parts[:2], parts[2:]), *images, *texts
        )


class CosmosEncoder(PooledEncoder):
    """A CrossAttentionEncoder and a PairScorer: a model with the cross-attention of COSMOS."""

    pair_score = "mean cosine of image, text and cross-modal features"
    openclip_tokenizer: SimpleTokenizer

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """With attention `crossmodal`, the values of the image's pooler, W_o v + b_o, instead of
        the last block's patches."""
        if attention != "crossmodal":
            return super().encode_patches(images, attention)
        whole = whole_patches(images, self.patch_size)
        return F.normalize(run(self.info, self.model.patch_values, whole), dim=-1)

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
    """Return the architecture that the file states, else the one that the user names."""
    stated = cosmos_core.read_checkpoint(path).architecture
    if arch is None:
        if stated is None:
            raise UsageError(f"{path} does not state its architecture: name it with --arch")
        return model_config(stated)
    # A name, a JSON file, or JSON as results have it.
    named = model_config(parse_json(arch) if arch.startswith("{") else arch)
    if stated is not None and (differences := audit.config_differences(stated, named)):
        raise UsageError(
            f"{path} states another architecture than {arch}: {differences}; leave --arch out"
        )
    return named if stated is None else model_config(stated)


def _preprocessing(size: tuple[int, int], config: Mapping[str, Any]) -> PreprocessCfg:
    stated = config.get("preprocess", {})
    own = {key: tuple(stated[key]) for key in ("mean", "std") if stated.get(key)}
    preprocessing = PreprocessCfg(size, resize_mode="shortest", interpolation="bicubic", **own)
    if differences := audit.stated_differences(stated, asdict(preprocessing)):
        raise UsageError(
            f"'preprocess' of this architecture cannot be had: {differences}; images are made as "
            "COSMOS's are, mean and std can be chosen"
        )
    return preprocessing


def _tokenizer(vocab_size: int, context_length: int) -> SimpleTokenizer:
    """Return the tokenizer of the model's vocabulary: OpenCLIP's or the scenes'."""
    made = [make(context_length=context_length) for make in (SimpleTokenizer, scenes_tokenizer)]
    for tokenizer in made:
        if tokenizer.vocab_size == vocab_size:
            return tokenizer
    sizes = " or ".join(str(tokenizer.vocab_size) for tokenizer in made)
    raise UsageError(f"no tokenizer for a vocabulary of {vocab_size} tokens, only for {sizes}")


def words_of(tokenizer: SimpleTokenizer, text: str) -> list[CaptionWord]:
    """Return all words of a text, in its own spelling as far as the tokenizer's cleaning leaves it.

    OpenCLIP's tokenizer cuts a text into letters, single digits, endings such as 's, and runs of
    other marks. Pieces that touch are one word again (2024, don't, and with a mark that connects
    t-shirt); other marks are words of their own, since a model may attend to a full stop as such.
    """
    cleaned = tokenizer.clean_fn(text)
    shown = _in_own_case(text, cleaned)
    words: list[CaptionWord] = []
    position = 1  # 0 is the start of text
    for chunk in re.finditer(r"\S+", cleaned):
        pieces = [*tokenizer.pat.finditer(cleaned, *chunk.span())]
        solid = _solid([piece[0] for piece in pieces])
        for index, piece in enumerate(pieces):
            letters = "".join(tokenizer.byte_encoder[byte] for byte in piece[0].encode())
            word = CaptionWord(shown[slice(*piece.span())], position, position, not index)
            if index and solid[index - 1] and solid[index]:
                last = words.pop()
                word = last._replace(text=last.text + word.text)
            position += tokenizer.bpe(letters).count(" ") + 1
            words.append(word._replace(stop=position, spaced=word.spaced and len(words) > 0))
    return words


def _solid(touching: Sequence[str]) -> list[bool]:
    """Tell which pieces are letters (vowel signs, category M, too), digits, or connecting marks."""
    solid = [any(c.isalnum() or unicodedata.category(c)[0] == "M" for c in p) for p in touching]
    inner = zip(solid, touching[1:-1], solid[2:], strict=False)
    connects = [before and piece in _CONNECTING and after for before, piece, after in inner]
    return [one or two for one, two in zip(solid, [False, *connects, False], strict=False)]


def _in_own_case(text: str, cleaned: str) -> str:
    """Return the cleaned text with the user's capitals, where it differs in nothing else."""
    spelled = whitespace_clean(basic_clean(text))
    # Some capitals become two characters in lower case, which moves the positions.
    return spelled if len(spelled) == len(cleaned) and spelled.lower() == cleaned else cleaned
