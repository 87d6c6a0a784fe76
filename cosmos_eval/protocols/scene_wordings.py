"""Other wordings of the embedded scenes, by their grammar. Imports no torch until they are made.

The captioners of scenes have several sentence patterns for the same content. Patterns with the same
content are a kind. A paraphrase chooses one pattern of each kind, and writes every sentence of this
kind in this pattern. The content of a caption stays the same, and models of scenes know all words.
"""

import random
import re
from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

from cosmos_eval.protocols.scenes import STUFF, THINGS
from cosmos_eval.types import UsageError

CLASS_TEMPLATES = (
    *("there is a large {}", "a big {} fills the scene", "the picture shows a large {}"),
    *("photo of a {}", "a photo of a {}", "a photo of the {}", "itap of a {}", "my {}", "{}"),
    *("there is a {} in the scene", "nice {} photo", "a {} for sale", "this scene shows a {}"),
    *("the image shows a {}", "we see a {}", "a {} can be seen", "there is a {}", "a small {}"),
)
"""Templates for names of things, by the sentence patterns of captions of scenes."""
STUFF_TEMPLATES = (
    *("{} on the ground", "{} in the background", "{} everywhere", "below we see {}"),
    *("there is {} on the ground", "the whole scene is covered with {}", "above we see {}"),
)
"""Templates for names of stuff, such as grass."""
_ADJECTIVES = ("small", "tiny", "little")
_SEED = 0  # of the random order of paraphrases


class _Kind(NamedTuple):
    """Sentence patterns that have the same content and the same fields."""

    # Patterns such as "{a} {place}".
    patterns: tuple[str, ...]
    # One regular expression for each pattern.
    expressions: tuple[re.Pattern[str], ...]


def n_paraphrases() -> int:
    """Return how many paraphrases of captions of scenes there are."""
    return len(_styles()) - 1


def paraphrase(sentence: str, number: int) -> str:
    """Return a sentence of a caption of scenes in other words.

    Args:
        sentence: A sentence without a full stop.
        number: The number of the paraphrase, from 1.

    Raises:
        UsageError: If the sentence does not follow the grammar of scenes, or if there is no
            paraphrase of this number.

    Example:
        "a small red ball on the left" may become "on the left sits a tiny red ball".
    """
    styles = _styles()
    if not 1 <= number < len(styles):
        raise UsageError(f"scenes have paraphrases 1 to {len(styles) - 1}, not {number}")
    style = styles[number]
    for kind, pattern_index in zip(_kinds(), style.pattern_indices, strict=True):
        for expression in kind.expressions:
            match = expression.fullmatch(sentence)
            if match is not None:
                return _fill(kind.patterns[pattern_index], match.groupdict(), style.adjective)
    raise UsageError(
        f"only captions of the embedded scenes have paraphrases, and '{sentence}' is not a "
        "sentence of their grammar: declare other wordings in a file"
    )


def _fill(pattern: str, fields: Mapping[str, str], adjective: str) -> str:
    """Return a sentence in a pattern.

    Args:
        pattern: A sentence pattern, such as "{a} {place}".
        fields: The texts of the pattern's fields. `a` and `b` are things without an article, such
            as "tiny red ball". `other` is a thing without its properties, such as "ball".
        adjective: The adjective that replaces small, tiny and little.
    """
    values = dict(fields)
    for name in ("a", "b"):
        if name in fields:
            first_word, _, other_words = fields[name].partition(" ")
            phrase = fields[name]
            if first_word in _ADJECTIVES:
                phrase = f"{adjective} {other_words}"
            values[name] = f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"
            if name == "a":
                values["bare"] = phrase
    if "other" in fields:
        values["b"] = fields["other"]
    return pattern.format(**values)


@cache
def _kinds() -> tuple[_Kind, ...]:
    """Return all kinds of sentences, from the patterns of the captioners.

    Two patterns belong to the same kind if they have the same name, such as "ground", and the same
    fields.
    """
    from cosmos_core.data.scenes.captions import RAW_PATTERNS, STYLES

    patterns_by_kind: dict[tuple[str, frozenset[str]], list[str]] = {}
    named_patterns: list[tuple[str, str]] = [("raw", pattern) for pattern in RAW_PATTERNS]
    for style in STYLES.values():
        for name in ("large", "ground", "background", "beside", "everywhere", "relation"):
            named_patterns += [(name, pattern) for pattern in getattr(style, name)]
        # A short caption has the same content as a sentence about a small thing.
        named_patterns += [("thing", pattern) for pattern in (*style.small, *style.short)]
    for name, pattern in named_patterns:
        fields = frozenset(re.findall(r"{(\w+)}", pattern.replace("{bare}", "{a}")))
        patterns = patterns_by_kind.setdefault((name, fields), [])
        if pattern not in patterns:
            patterns.append(pattern)
    kinds = []
    for (name, _), patterns in patterns_by_kind.items():
        expressions = tuple(_expression(pattern, name) for pattern in patterns)
        kinds.append(_Kind(tuple(patterns), expressions))
    return tuple(kinds)


def _expression(pattern: str, kind: str) -> re.Pattern[str]:
    """Return the regular expression that matches the sentences of a pattern.

    The groups of the expression have the names of the pattern's fields, see `_fill`.

    Args:
        pattern: A sentence pattern, such as "{a} {place}".
        kind: The name of the kind, such as "relation".
    """
    from cosmos_core.data.scenes import PALETTE
    from cosmos_core.data.scenes.captions import PLACE_PHRASES, SIDES

    adjectives, colours = "|".join(_ADJECTIVES), "|".join(PALETTE)
    thing = rf"(?:(?:{adjectives}) )?(?:(?:{colours}) )?(?:{'|'.join(THINGS)})"
    sides = [*SIDES.values()] if kind == "relation" else ["left", "right"]
    # In a relation, the other thing has neither a size nor a colour.
    other = f"(?P<other>{'|'.join(THINGS)})" if kind == "relation" else f"an? (?P<b>{thing})"
    expression_by_field = {
        "{a}": f"an? (?P<a>{thing})",
        "{bare}": f"(?P<a>{thing})",
        "{b}": other,
        "{place}": f"(?P<place>{'|'.join(PLACE_PHRASES.values())})",
        "{side}": f"(?P<side>{'|'.join(sides)})",
        "{s}": f"(?P<s>{'|'.join(STUFF)})",
    }
    expression = pattern
    for field, field_expression in expression_by_field.items():
        expression = expression.replace(field, field_expression)
    return re.compile(expression)


class _Style(NamedTuple):
    """The choices of a paraphrase."""

    # For each kind, the index of its pattern.
    pattern_indices: tuple[int, ...]
    adjective: str


@cache
def _styles() -> list[_Style]:
    """Return the choices of all paraphrases. The first one is not a paraphrase.

    All captions have sentences about small things. The paraphrases are the combinations of a
    pattern for these sentences with an adjective, in a random order with a fixed seed. The patterns
    of the other kinds are random. The first combination is left out of the paraphrases, since the
    captioner of the long captions writes so.
    """
    sizes = [len(kind.patterns) for kind in _kinds()]
    thing_kind = _kind_of("a red ball on the left")
    choices = list(product(range(sizes[thing_kind]), _ADJECTIVES))
    other_choices = choices[1:]
    rng = random.Random(_SEED)
    rng.shuffle(other_choices)
    styles = []
    for thing_pattern, adjective in (choices[0], *other_choices):
        pattern_indices = [rng.randrange(size) for size in sizes]
        pattern_indices[thing_kind] = thing_pattern
        styles.append(_Style(tuple(pattern_indices), adjective))
    return styles


def _kind_of(sentence: str) -> int:
    """Return the index of the kind of a sentence."""
    for index, kind in enumerate(_kinds()):
        if any(expression.fullmatch(sentence) for expression in kind.expressions):
            return index
    raise ValueError(f"no kind of sentence: {sentence}")


def class_synonyms(number: int) -> dict[str, str]:
    """Return other prompts for the prompts of segmentation on scenes.

    Args:
        number: The number of the wording, from 1 to `len(CLASS_TEMPLATES)`.

    Example:
        {"we see a apple": "photo of a apple", ..., "with grass": "below we see grass", ...}
    """
    thing_template = CLASS_TEMPLATES[number - 1]
    stuff_template = STUFF_TEMPLATES[(number - 1) % len(STUFF_TEMPLATES)]
    synonyms = {}
    for name in THINGS:
        synonyms[f"we see a {name}"] = thing_template.replace("{}", name)
    for name in STUFF:
        synonyms[f"with {name}"] = stuff_template.replace("{}", name)
    return synonyms
