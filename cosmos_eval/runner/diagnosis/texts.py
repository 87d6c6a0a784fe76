"""Faults of texts: prompts, letters, and tokens."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn
from torch import Tensor

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.runner.diagnosis.faults import Fault, NotApplicableError

_SHORT_TEXT, _OTHER_TEXT = "a", "a b"
_CAPTION_TEMPLATES = ("{}",)


@dataclass(frozen=True)
class Wording:
    """The texts of a data set: class names in templates, or captions in the template `{}`.

    N is the number of names, and T the number of templates.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    # The names that the data set itself has for its classes, such as names of folders; None for
    # captions.
    data_names: tuple[str, ...] | None = None

    @property
    def texts(self) -> list[str]:
        """(N * T,) every name in every template. All texts of a name stand together."""
        return [template.replace("{}", name) for name in self.names for template in self.templates]


class TokenLayout(NamedTuple):
    """The special tokens that a tokenizer adds to a text. They are None if it adds none."""

    # The id of the padding after a text.
    padding: int | None
    # The ids that begin and end every text. In some models, the end and the padding have one id.
    start: int | None
    end: int | None

    def count(self, row: Sequence[int]) -> int:
        """Return the number of tokens of a padded text. Its start and its end are counted.

        Args:
            row: The token ids of one text, padded at the end.

        Example:
            If both the padding and the end are 9, [8, 5, 9, 9, 9] has the 3 tokens [8, 5, 9].
        """
        length = len(row)
        while length > 1 and self.padding is not None and row[length - 1] == self.padding:
            length -= 1
        if self.end is not None and self.end == self.padding:
            length += 1  # the loop took the end of the text for padding
        return min(length, len(row))


def study_tokenizer(encoder: Encoder) -> TokenLayout:
    """Find the special tokens of a model's tokenizer by the tokens of three short texts.

    The texts are "a", "a b" and the empty text. If all end with the same id, it is the padding. If
    all begin with the same id, it is the start. The end is the last id before the padding.
    """
    tokens = encoder.tokenize([_SHORT_TEXT, _OTHER_TEXT, ""])
    if tokens.shape[1] < 4:
        return TokenLayout(None, None, None)
    short, other, empty = tokens.tolist()
    is_padded = short[-1] == short[-2] == empty[-1]
    padding = short[-1] if is_padded else None
    has_start = short[0] == other[0] == empty[0] and short[0] != padding
    layout = TokenLayout(padding, short[0] if has_start else None, None)
    last_tokens = {row[layout.count(row) - 1] for row in (short, other)}
    end = last_tokens.pop() if len(last_tokens) == 1 else padding
    return layout._replace(end=end)


@dataclass(frozen=True, kw_only=True)
class TextFault(Fault):
    """A fault of texts. The base class itself changes nothing.

    A subclass overrides the step in which the mistake is made: the wording (which names are put
    into which templates), the letters of a text, the tokenizer, or the tokens.
    """

    def change_wording(self, wording: Wording) -> Wording:
        """Return the names and templates with the fault. Raises NotApplicableError."""
        return wording

    def change_text(self, text: str) -> str:
        """Return a text with the fault."""
        return text

    def tokenize(self, encoder: Encoder, texts: Sequence[str]) -> Tensor:
        """Return the tokens (N, L) of texts. Raises NotApplicableError."""
        return encoder.tokenize(texts)

    def change_tokens(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Return the tokens (N, L) with the fault. Raises NotApplicableError."""
        return tokens

    def apply(self, encoder: Encoder, wording: Wording, layout: TokenLayout) -> Tensor:
        """Return the tokens (N, L) of all texts with the fault.

        Args:
            encoder: The model.
            wording: The names and templates, as `change_wording` returned them.
            layout: The special tokens of the model's tokenizer.

        Raises:
            NotApplicableError: If the model cannot have the fault.
        """
        texts = [self.change_text(text) for text in wording.texts]
        return self.change_tokens(self.tokenize(encoder, texts), layout)


@dataclass(frozen=True, kw_only=True)
class PromptFault(TextFault):
    """Class names are put into other templates."""

    # The templates; None: only the first template of the protocol.
    templates: tuple[str, ...] | None

    def change_wording(self, wording: Wording) -> Wording:
        """Return the names with the fault's templates."""
        if wording.data_names is None:
            raise NotApplicableError("captions are not put into templates")
        return replace(wording, templates=self.templates or wording.templates[:1])


@dataclass(frozen=True, kw_only=True)
class ClassNameFault(TextFault):
    """Prompts have the names that the data set has for its classes, such as names of folders."""

    def change_wording(self, wording: Wording) -> Wording:
        """Return the data set's own names of the classes in the protocol's templates."""
        if wording.data_names is None:
            raise NotApplicableError("captions have no classes")
        return replace(wording, names=wording.data_names)


@dataclass(frozen=True, kw_only=True)
class CaseFault(TextFault):
    """Letters are small, or words begin with a capital."""

    is_lower: bool

    def change_text(self, text: str) -> str:
        """Return the text with small letters, or with a capital at the beginning of words."""
        return text.lower() if self.is_lower else string.capwords(text)


@dataclass(frozen=True, kw_only=True)
class KeptCaseFault(TextFault):
    """The tokenizer of OpenCLIP does not turn capitals into small letters."""

    def tokenize(self, encoder: Encoder, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts, in which capitals stay capitals."""
        tokenizer: Any = getattr(encoder, "openclip_tokenizer", None)
        is_lowering = getattr(tokenizer, "clean_fn", None) is get_clean_fn("lower")
        if not isinstance(tokenizer, SimpleTokenizer) or not is_lowering:
            raise NotApplicableError("only OpenCLIP's own tokenizer is changed here")
        tokenizer_with_capitals = copy(tokenizer)
        tokenizer_with_capitals.clean_fn = get_clean_fn("whitespace")
        return tokenizer_with_capitals(list(texts))


@dataclass(frozen=True, kw_only=True)
class PunctuationFault(TextFault):
    """Punctuation is removed, as SigLIP's tokenizer does it."""

    def change_text(self, text: str) -> str:
        """Return the text without punctuation and doubled spaces."""
        without_marks = text.translate(str.maketrans("", "", string.punctuation))
        return re.sub(r"\s+", " ", without_marks).strip()


@dataclass(frozen=True, kw_only=True)
class PaddingSideFault(TextFault):
    """Padding stands before the text."""

    def change_tokens(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Return the tokens with all padding moved to the left."""
        _require_padding(layout)
        rows = []
        for row in tokens.tolist():
            length = layout.count(row)
            rows.append(row[length:] + row[:length])
        return torch.tensor(rows)


@dataclass(frozen=True, kw_only=True)
class PaddingLengthFault(TextFault):
    """Texts are padded to the longest of them instead of to the context."""

    def change_tokens(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Return the tokens (N, l) without the positions that are padding in all texts."""
        _require_padding(layout)
        longest = max(layout.count(row) for row in tokens.tolist())
        return tokens[:, :longest]


@dataclass(frozen=True, kw_only=True)
class SpecialTokenFault(TextFault):
    """The tokens before and after a text are missing."""

    def change_tokens(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Return the tokens without the start and the end of text, padded at the end."""
        if layout.start is None and layout.end in (None, layout.padding):
            raise NotApplicableError("its tokenizer adds no special tokens")
        rows = []
        for row in tokens.tolist():
            length = layout.count(row)
            text_tokens = row[:length]
            if text_tokens[-1] == layout.end:
                text_tokens = text_tokens[:-1]
            if row[0] == layout.start:
                text_tokens = text_tokens[1:]
            padding = 0 if layout.padding is None else layout.padding
            rows.append(text_tokens + [padding] * (len(row) - len(text_tokens)))
        return torch.tensor(rows)


@dataclass(frozen=True, kw_only=True)
class TruncationFault(TextFault):
    """Texts are cut to a part of the context."""

    fraction: float

    def change_tokens(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Return the tokens (N, L). A long text keeps its first tokens and its end of text.

        Example:
            With a fraction of 0.5, [1, 5, 6, 7, 8, 2, 0, 0], which ends with 2, is cut to four
            tokens and padded with 0: [1, 5, 6, 2, 0, 0, 0, 0].
        """
        padding = _require_padding(layout)
        longest = max(2, int(self.fraction * tokens.shape[1]))
        rows = []
        for row in tokens.tolist():
            length = layout.count(row)
            if length > longest:
                last_token = row[length - 1]
                shortened = [*row[: longest - 1], last_token]
                row = shortened + [padding] * (len(row) - longest)
            rows.append(row)
        return torch.tensor(rows)


def _require_padding(layout: TokenLayout) -> int:
    """Return the id of the padding. Raises NotApplicableError if texts are not padded."""
    if layout.padding is None:
        raise NotApplicableError("its tokenizer does not pad texts at the end")
    return layout.padding


TEXT_FAULTS: tuple[TextFault, ...] = (
    PromptFault(
        name="names without template",
        wrong="class names are encoded alone, without a template",
        check="look for the templates of the protocol",
        templates=_CAPTION_TEMPLATES,
    ),
    PromptFault(
        name="'a photo of a {}.'",
        wrong="all class names are put into 'a photo of a {}.'",
        check="compare the templates",
        templates=("a photo of a {}.",),
    ),
    PromptFault(
        name="first template only",
        wrong="only the first template is used, without an ensemble",
        check="compare the number of templates",
        templates=None,
    ),
    ClassNameFault(
        name="names of folders",
        wrong="prompts have names of folders, not the class names",
        check="compare the lists of class names",
    ),
    CaseFault(
        name="lower case",
        wrong="texts are in small letters",
        check="look for lower(), and at do_lower_case of the tokenizer",
        is_lower=True,
    ),
    CaseFault(
        name="capitalised words",
        wrong="words begin with a capital",
        check="compare a few prompts letter by letter",
        is_lower=False,
    ),
    KeptCaseFault(
        name="case kept",
        wrong="the tokenizer keeps capitals, which the model does not know",
        check="compare the tokens of 'A Dog' and 'a dog'",
    ),
    PunctuationFault(
        name="no punctuation",
        wrong="punctuation is removed from texts",
        check="compare the tokens of 'a dog.' and 'a dog'",
    ),
    PaddingSideFault(
        name="padding on the left",
        wrong="padding stands before the text",
        check="look at padding_side of the tokenizer",
    ),
    PaddingLengthFault(
        name="padding to longest",
        wrong="texts are padded to the longest of them, not to the context",
        check='pass padding="max_length" and max_length to the tokenizer',
    ),
    SpecialTokenFault(
        name="no special tokens",
        wrong="the start and the end of text are missing",
        check="look at add_special_tokens",
    ),
    TruncationFault(
        name="truncation to half",
        wrong="texts are cut to half of the context",
        check="look at max_length of the tokenizer",
        fraction=0.5,
    ),
    TruncationFault(
        name="truncation to a quarter",
        wrong="texts are cut to a quarter of the context",
        check="look at max_length of the tokenizer",
        fraction=0.25,
    ),
)
