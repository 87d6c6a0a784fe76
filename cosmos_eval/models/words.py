"""Where the words of a text are among its tokens, for OpenCLIP's byte pair tokenizer.

The tokenizer cuts a text into letters, single digits, endings such as 's, and runs of other marks,
and each of these into tokens of which the last one ends with `</w>`. Pieces that touch are one word
again (2024, don't, and with a mark that connects t-shirt), but other marks are words of their own,
since a model may look at a full stop as such.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from open_clip.tokenizer import SimpleTokenizer, basic_clean, whitespace_clean

from cosmos_eval.types import CaptionWord

_CONNECTING = ("-", "'", ".", "_")


class _Piece(NamedTuple):
    """What ends with `</w>`: characters [start, stop) of the cleaned text, as `tokens` tokens.

    A mark may be one that `connects` what is at both of its sides.
    """

    start: int
    stop: int
    tokens: int
    is_mark: bool
    connects: bool


def words_of(tokenizer: SimpleTokenizer, text: str) -> list[CaptionWord]:
    """All words of a text, in its own spelling as far as the tokenizer's cleaning leaves it.

    Lower case does not show: the model does not see capitals, the reader does.
    """
    cleaned = tokenizer.clean_fn(text)
    shown = _in_own_case(text, cleaned)
    words: list[CaptionWord] = []
    place = 1  # 0 is the start of text
    for chunk in re.finditer(r"\S+", cleaned):
        for pieces in _words(list(_pieces(tokenizer, cleaned, chunk.span()))):
            first, stop = pieces[0].start, place + sum(piece.tokens for piece in pieces)
            spaced = first == chunk.start() and bool(words)
            words.append(CaptionWord(shown[first : pieces[-1].stop], place, stop, spaced))
            place = stop
    return words


def _pieces(tokenizer: SimpleTokenizer, cleaned: str, within: tuple[int, int]) -> Iterator[_Piece]:
    for match in tokenizer.pat.finditer(cleaned, *within):
        letters = "".join(tokenizer.byte_encoder[byte] for byte in match[0].encode())
        tokens = tokenizer.bpe(letters).count(" ") + 1
        connects = match[0] in _CONNECTING
        yield _Piece(match.start(), match.end(), tokens, _is_mark(match[0]), connects)


def _is_mark(piece: str) -> bool:
    """Punctuation or symbols; vowel signs, which the tokenizer takes for such, belong to words."""
    return not any(c.isalnum() or unicodedata.category(c).startswith("M") for c in piece)


def _words(touching: Sequence[_Piece]) -> list[list[_Piece]]:
    """Pieces without white space in between: letters and digits that touch or are connected."""
    solid = [not piece.is_mark for piece in touching]
    for index in range(1, len(touching) - 1):
        by_a_mark = touching[index - 1].is_mark or touching[index + 1].is_mark
        solid[index] |= touching[index].connects and not by_a_mark
    words: list[list[_Piece]] = []
    for index, piece in enumerate(touching):
        if index and solid[index - 1] and solid[index]:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _in_own_case(text: str, cleaned: str) -> str:
    """The cleaned text with the user's capitals, where it differs in nothing else."""
    spelled = whitespace_clean(basic_clean(text))
    # Some capitals become two characters in lower case, whose places would be lost.
    return spelled if len(spelled) == len(cleaned) and spelled.lower() == cleaned else cleaned
