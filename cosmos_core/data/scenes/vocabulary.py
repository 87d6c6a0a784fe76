"""A vocabulary in which every word of the captions, and of usual prompts, is one token."""

from __future__ import annotations

import gzip
import re
import string
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_core.data.scenes import PALETTE, VERSION_1, VERSIONS, Version
from cosmos_core.data.scenes.captions import PLACE_PHRASES, RAW_PATTERNS, SIDES, STYLES

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

CONTEXT_LENGTH = VERSION_1.context_length
_BUNDLED = Path(__file__).parents[2] / "bundled"
MERGES_FILE = _BUNDLED / "scenes_merges.txt.gz"  # of version 1

# Words of the 80 prompts that OpenAI published for ImageNet (open_clip,
# zero_shot_metadata.py: OPENAI_IMAGENET_TEMPLATES) and of a few other usual prompts.
_PROMPT_WORDS = """
    a an the of in my this that one it there is are many some on with at and
    photo photos picture pictures image scene drawing sketch painting rendering rendition
    sculpture statue graffiti tattoo doodle origami toy plushie embroidery cartoon art
    bad good low resolution cropped hard to see bright clean dirty dark close up black white
    plastic blurry jpeg corrupted video game pixelated embroidered large small big little tiny
    nice cool weird rendered rendition cgi itap i took type kind thing things object objects
    texture background ground colour color colored
"""


def merges_file(version: Version) -> Path:
    """Return the bundled file of the byte pair merges of a version's captions."""
    return _BUNDLED / f"{version.name}_merges.txt.gz"


@lru_cache
def words(version: str = VERSION_1.name) -> tuple[str, ...]:
    """Return every word that captions of scenes and usual prompts can contain, sorted.

    Args:
        version: The name of the version of the scenes.
    """
    vocabulary = {*VERSIONS[version].classes, *PALETTE, *_PROMPT_WORDS.split()}
    patterns = [*RAW_PATTERNS, *PLACE_PHRASES.values(), *SIDES.values(), "and a an left right"]
    for style in STYLES.values():
        vocabulary.add(style.small_adjective)
        for field in style:
            if isinstance(field, tuple):
                patterns += field
    for pattern in patterns:
        # "{a} on the ground" has the literal text " on the ground".
        for literal, *_ in string.Formatter().parse(pattern):
            vocabulary.update(literal.split())
    return tuple(sorted(vocabulary))


def merges(version: str = VERSION_1.name) -> list[tuple[str, str]]:
    """Return the byte pair merges, in order, that make each of `words(version)` one token.

    A word begins as its letters and an end mark, as symbols: "red" as `r e d</w>`. In each round,
    the pair of neighbouring symbols that occurs in most words is merged in all of them. For
    example, the pair ("e", "d</w>") makes `r ed</w>` of it. This ends when every word is one
    symbol.
    """
    # Words as symbols with blanks between them.
    spelled_words = {" ".join(word) + "</w>" for word in words(version)}
    merged_pairs: list[tuple[str, str]] = []
    while True:
        spelled_words = {word for word in spelled_words if " " in word}
        if not spelled_words:
            return merged_pairs
        counts: Counter[tuple[str, str]] = Counter()
        for word in spelled_words:
            counts.update(pairwise(word.split()))
        # If several pairs are equally frequent, the first by spelling is taken: sets of words have
        # another order in each process.
        best_pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merged_pairs.append(best_pair)
        pattern = re.compile(rf"(?<!\S){re.escape(' '.join(best_pair))}(?!\S)")
        spelled_words = {pattern.sub("".join(best_pair), word) for word in spelled_words}


def write_merges(path: Path, version: str = VERSION_1.name) -> None:
    """Write the merges to a gzip file that OpenCLIP's SimpleTokenizer reads.

    The file has no time stamp, so that the same merges give the same bytes.

    Args:
        path: The file to write.
        version: The name of the version of the scenes.
    """
    header = "#version: scenes, byte pairs of the scenes' captions and of prompt templates"
    lines = [header]
    for pair in merges(version):
        lines.append(" ".join(pair))
    text = "\n".join(lines)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.encode())


def scenes_tokenizer(
    context_length: int = CONTEXT_LENGTH, version: Version = VERSION_1
) -> SimpleTokenizer:
    """Return OpenCLIP's tokenizer with the bundled vocabulary of the scenes.

    It converts a list of N texts to token ids, int64 (N, context_length).

    Args:
        context_length: The number of tokens to which texts are padded or cut.
        version: The version of the scenes.
    """
    # Imported here: it imports torch, which pictures and captions do not need.
    from cosmos_core.data.scenes.tokenizer import ScenesTokenizer

    return ScenesTokenizer(version, context_length)
