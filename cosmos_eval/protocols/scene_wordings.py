"""Other wordings of the embedded scenes, by their grammar. Imports no torch until they are made.

The captioners of scenes write the same content in several sentence patterns. A paraphrase chooses
one pattern of each kind, and writes every sentence of this kind by it. It therefore says exactly
what the caption says, in words that models of scenes know.
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
_SEED = 0  # of the order of paraphrases


class _Kind(NamedTuple):
    """Sentence patterns that say the same, and have the same fields."""

    patterns: tuple[str, ...]
    # One regular expression for each pattern.
    expressions: tuple[re.Pattern[str], ...]


def n_paraphrases() -> int:
    """Return how many paraphrases of captions of scenes there are."""
    return len(_orders()) - 1


def paraphrase(sentence: str, number: int) -> str:
    """Return a sentence of a caption of scenes in other words.

    Args:
        sentence: A sentence without a full stop.
        number: The number of the paraphrase, from 1.

    Raises:
        UsageError: For a sentence that captions of scenes do not have, or too high a number.

    Example:
        "a small red ball on the left" may become "on the left sits a tiny red ball".
    """
    kinds, orders = _kinds(), _orders()
    if not 1 <= number < len(orders):
        raise UsageError(f"scenes have paraphrases 1 to {len(orders) - 1}, not {number}")
    pattern_by_kind, adjective = orders[number]
    for kind, pattern_index in zip(kinds, pattern_by_kind, strict=True):
        for expression in kind.expressions:
            match = expression.fullmatch(sentence)
            if match is not None:
                return _fill(kind.patterns[pattern_index], match.groupdict(), adjective)
    raise UsageError(
        f"only captions of the embedded scenes have paraphrases, and '{sentence}' is not a "
        "sentence of their grammar: declare other wordings in a file"
    )


def _fill(pattern: str, fields: Mapping[str, str], adjective: str) -> str:
    """Return a sentence by a pattern.

    Args:
        pattern: A sentence pattern, such as "{a} {place}".
        fields: The texts of the fields: `a` and `b` are things without an article, `other` is the
            kind of another thing.
        adjective: The adjective in place of small, tiny or little.
    """
    values = dict(fields)
    for name in ("a", "b"):
        if name in fields:
            first, _, others = fields[name].partition(" ")
            phrase = f"{adjective} {others}" if first in _ADJECTIVES else fields[name]
            values[name] = f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"
            if name == "a":
                values["bare"] = phrase
    if "other" in fields:
        values["b"] = fields["other"]
    return pattern.format(**values)


@cache
def _kinds() -> tuple[_Kind, ...]:
    """Return all kinds of sentences, from the patterns of the captioners."""
    from cosmos_core.data.scenes.captions import RAW_PATTERNS, STYLES

    patterns_by_kind: dict[tuple[str, frozenset[str]], list[str]] = {}
    sources: list[tuple[str, str]] = [("raw", pattern) for pattern in RAW_PATTERNS]
    for style in STYLES.values():
        for name in ("large", "ground", "background", "beside", "everywhere", "relation"):
            sources += [(name, pattern) for pattern in getattr(style, name)]
        # A short caption about a thing and its place says what a sentence about a thing does.
        sources += [("thing", pattern) for pattern in (*style.small, *style.short)]
    for name, pattern in sources:
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

    Its groups have the names of the pattern's fields; `a` and `b` are things without an article.
    """
    from cosmos_core.data.scenes import PALETTE
    from cosmos_core.data.scenes.captions import PLACE_PHRASES, SIDES

    adjectives, colours = "|".join(_ADJECTIVES), "|".join(PALETTE)
    thing = rf"(?:(?:{adjectives}) )?(?:(?:{colours}) )?(?:{'|'.join(THINGS)})"
    sides = [*SIDES.values()] if kind == "relation" else ["left", "right"]
    # In a relation, the other thing is named by its kind alone.
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


@cache
def _orders() -> list[tuple[tuple[int, ...], str]]:
    """Return the pattern of each kind, and the adjective, of all paraphrases.

    The first one is how the captioner of the long captions writes. The order of the others is
    random, with a fixed seed. No two of them write sentences about small things in the same way,
    which all captions have.
    """
    sizes = [len(kind.patterns) for kind in _kinds()]
    thing_kind = _kind_of("a red ball on the left")
    choices = list(product(range(sizes[thing_kind]), _ADJECTIVES))
    other_choices = choices[1:]
    rng = random.Random(_SEED)
    rng.shuffle(other_choices)
    orders = []
    for thing_pattern, adjective in (choices[0], *other_choices):
        patterns = [rng.randrange(size) for size in sizes]
        patterns[thing_kind] = thing_pattern
        orders.append((tuple(patterns), adjective))
    return orders


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
