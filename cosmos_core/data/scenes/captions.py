"""Captions of a scene in the manner of three captioners, and pairs of a correct and a false one.

Each sentence of a long caption is about one element of the scene. Captioners leave elements out,
but say nothing false. A sentence has at most 11 words, no full stop, and only words of the
vocabulary.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cosmos_core.data.scenes import COLOURS, LARGE, PALETTE, SIDE, SMALL, THINGS

T = TypeVar("T")
Captions = dict[str, list[str]]  # key as in DreamLIP's releases -> sentences
Box = tuple[int, int, int, int]

_MIN_SENTENCES, _MAX_SENTENCES = 4, 7  # of a long caption
# Pixels between the centres of two things that are clearly beside, above or below each other.
_MIN_RELATION_DISTANCE = 18
# A place is clearly wrong for a thing if the thing's centre is this far outside of it, in pixels.
_MIN_WRONG_DISTANCE = 8.0

# Places, the thirds of an image in both directions, row by row, and phrases for them in captions.
PLACE_PHRASES = {
    "upper left": "in the upper left",
    "top": "at the top",
    "upper right": "in the upper right",
    "left": "on the left",
    "center": "in the center",
    "right": "on the right",
    "lower left": "in the lower left",
    "bottom": "at the bottom",
    "lower right": "in the lower right",
}
_PLACES = tuple(PLACE_PHRASES)

# Words for the relation of two things, by the direction of the distance between their centres.
SIDES = {"x-": "left of", "x+": "right of", "y-": "above", "y+": "below"}

# Attributes in which a correct and a false caption can differ, and the values of each attribute.
ATTRIBUTES: dict[str, Sequence[Any]] = {
    "colour": [*PALETTE],
    "place": _PLACES,
    "kind": THINGS,
    "size": (LARGE, SMALL),
}


class Thing(NamedTuple):
    """One thing of a scene."""

    kind: str
    colour: str
    size: str  # LARGE for a dominant thing, else SMALL; in a control, all things are SMALL
    place: str  # a key of PLACE_PHRASES
    box: Box  # x0, y0, x1, y1 of the visible pixels; x1 and y1 are exclusive
    area: float  # visible pixels as a fraction of the image


_Things = tuple[Thing, Thing]


class Stuff(NamedTuple):
    """One region of stuff, such as grass, in the background of a scene.

    The names of the fields are keys of `annotations.json`.
    """

    kind: str
    where: str  # `ground`, `background`, `left`, `right` or `everywhere`
    area: float  # visible pixels as a fraction of the image


class Style(NamedTuple):
    """The sentence patterns of one captioner.

    Patterns have these fields: `{a}` is a thing with article and colour, and an adjective if it is
    small; `{bare}` is the same without article; `{place}` is its place; `{b}` is another thing;
    `{side}` is a relation, or a side of the image; `{s}` is stuff.
    """

    # Sentences about the dominant thing, and about small things.
    large: tuple[str, ...]
    small: tuple[str, ...]
    small_adjective: str
    # Sentences about stuff, by its place.
    ground: tuple[str, ...]
    background: tuple[str, ...]
    beside: tuple[str, ...]
    everywhere: tuple[str, ...]
    # Sentences about two things and their relation.
    relation: tuple[str, ...]
    # Short captions.
    short: tuple[str, ...]
    # The chance to leave out a small thing or a kind of stuff.
    omission: float


STYLES = {
    "IB": Style(
        large=("a large {bare} {place}",),
        small=("{a} {place}",),
        small_adjective="small",
        ground=("{s} on the ground",),
        background=("{s} in the background",),
        beside=("{s} on the {side} side",),
        everywhere=("{s} everywhere",),
        relation=(),
        short=("{a} and {b}", "{a} {place}", "{a} and some {s}", "{a} with {b}"),
        omission=0.04,
    ),
    "SV": Style(
        large=("the main object is {a} {place}", "a big {bare} fills the scene"),
        small=("{place} sits {a}", "{a} can be seen {place}"),
        small_adjective="tiny",
        ground=("the ground is covered with {s}", "the lower part shows {s}"),
        background=("behind it there is {s}", "the upper part shows {s}"),
        beside=("the {side} side is covered with {s}", "the {side} part shows {s}"),
        everywhere=("the whole scene is covered with {s}",),
        relation=("{a} is {side} the {b}",),
        short=("this scene shows {a} and {b}", "the image shows {a} {place}", "{a} with {s}"),
        omission=0.12,
    ),
    "LLA": Style(
        large=("there is a large {bare} {place}", "the picture shows a large {bare}"),
        small=("there is {a} {place}", "{place} we see {a}", "{a} {place}"),
        small_adjective="little",
        ground=("there is {s} on the ground", "below we see {s}"),
        background=("there is {s} in the background", "above we see {s}"),
        beside=("there is {s} on the {side} side", "{s} covers the {side} side"),
        everywhere=("there is {s} everywhere", "we see only {s} around it"),
        relation=("we see {a} {side} the {b}",),
        short=("there is {a} and {b}", "a picture of {a} with {b}", "we see {a} {place}"),
        omission=0.12,
    ),
}

RAW_PATTERNS = (
    "{a}",
    "{bare}",
    "photo of {a}",
    "a photo of {a}",
    "a photo of the {bare}",
    "a picture of {a}",
    "my {bare}",
    "itap of {a}",
    "there is {a} in the scene",
    "nice {bare} photo",
    "{a} for sale",
)


class _Chooser:
    """Makes the random choices of a caption.

    It draws all random numbers at once, which is faster than one by one.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw enough random numbers for the captions of a scene."""
        self._values = iter(rng.random(192).tolist())

    def chance(self, probability: float) -> bool:
        """Return True with this probability, else False."""
        return next(self._values) < probability

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, each with the same probability."""
        return options[int(next(self._values) * len(options))]


def place_of(box: Box) -> str:
    """Return the place in a scene at which a box has its centre, such as "upper left".

    Places are the thirds of the scene in both directions.

    Args:
        box: The box (x0, y0, x1, y1) in pixels.

    Returns:
        A key of PLACE_PHRASES.

    Example:
        In a scene of 128 pixels, the box (80, 10, 120, 30) has its centre at (100, 20), in the
        third column and the first row: "upper right".
    """
    x0, y0, x1, y1 = box
    # The centre is at (x0 + x1) / 2, and a third of the scene is SIDE / 3 pixels.
    column = min(2, (x0 + x1) * 3 // (2 * SIDE))
    row = min(2, (y0 + y1) * 3 // (2 * SIDE))
    return _PLACES[3 * row + column]


def relation_of(box: Box, other: Box) -> str | None:
    """Return where a box lies relative to another one.

    The direction in which their centres are further apart counts.

    Args:
        box: The box (x0, y0, x1, y1) in pixels.
        other: The other box.

    Returns:
        "left of", "right of", "above" or "below", or None if the centres are near each other.
    """
    x0, y0, x1, y1 = box
    other_x0, other_y0, other_x1, other_y1 = other
    # The distances between the centres. y counts downwards.
    dx = (x0 + x1 - other_x0 - other_x1) / 2
    dy = (y0 + y1 - other_y0 - other_y1) / 2
    if max(abs(dx), abs(dy)) < _MIN_RELATION_DISTANCE:
        return None
    if abs(dx) > abs(dy):
        return SIDES["x-"] if dx < 0 else SIDES["x+"]
    return SIDES["y-"] if dy < 0 else SIDES["y+"]


def describe_scene(
    rng: np.random.Generator, things: Sequence[Thing], stuff: Sequence[Stuff]
) -> Captions:
    """Return the captions of a scene by DreamLIP's keys, each as a list of sentences.

    They are a raw caption, as from the web, and a short and a long caption of each captioner.

    Args:
        rng: The random generator, by which elements and words are chosen.
        things: The dominant thing of the scene first, then at least two small things.
        stuff: The regions of stuff, such as grass, in the background.

    Example::

        {"raw_caption": ["photo of a red car"],
         "shortIB_captions": ["a red car with a small blue ball"],
         "longIB_captions": ["a large red car in the center", "a small blue ball on the left", ...],
         ...}
    """
    chooser = _Chooser(rng)
    bare_phrase = things[0].kind if chooser.chance(0.2) else _bare_phrase(things[0], chooser)
    raw_pattern = chooser.pick(RAW_PATTERNS)
    raw_caption = raw_pattern.format(a=_with_article(bare_phrase), bare=bare_phrase)
    captions: Captions = {"raw_caption": [raw_caption]}
    for name, style in STYLES.items():
        captions[f"short{name}_captions"] = [_short_caption(style, things, stuff, chooser)]
        captions[f"long{name}_captions"] = _long_caption(style, things, stuff, chooser)
    return captions


def _short_caption(
    style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], chooser: _Chooser
) -> str:
    """Return a caption of one sentence about the dominant thing, such as "a red car with sand".

    Some patterns also name one of the first two small things, or the last region of stuff.

    Args:
        style: The sentence patterns of the captioner.
        things: The dominant thing of the scene first, then at least two small things.
        stuff: The regions of stuff in the background.
        chooser: Makes the random choices.
    """
    small_thing = things[2] if chooser.chance(0.5) else things[1]
    pattern = chooser.pick(style.short)
    return pattern.format(
        a=_with_article(_bare_phrase(things[0], chooser)),
        b=_phrase_with_size(style, small_thing, chooser),
        place=PLACE_PHRASES[things[0].place],
        s=stuff[-1].kind,
    )


def _long_caption(
    style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], chooser: _Chooser
) -> list[str]:
    """Return the sentences of a long caption, at most _MAX_SENTENCES.

    The first sentence is about the dominant thing. The others are about a small thing or a region
    of stuff each. Some of these elements are left out, by the chance `style.omission`, as long as
    at least _MIN_SENTENCES sentences remain. A sentence about a relation may come last.

    Args:
        style: The sentence patterns of the captioner.
        things: The dominant thing of the scene first, then at least two small things.
        stuff: The regions of stuff in the background.
        chooser: Makes the random choices.
    """
    # Describe the dominant thing.
    bare_phrase = _bare_phrase(things[0], chooser)
    pattern = chooser.pick(style.large)
    first_sentence = pattern.format(
        a=_with_article(bare_phrase), bare=bare_phrase, place=PLACE_PHRASES[things[0].place]
    )

    # Choose the small things and the stuff that this captioner does not leave out.
    all_elements: list[Thing | Stuff] = [*things[1:], *stuff]
    noticed_elements = list(all_elements)
    for element in all_elements:
        can_omit = 1 + len(noticed_elements) > _MIN_SENTENCES
        if can_omit and chooser.chance(style.omission):
            noticed_elements.remove(element)

    # Describe each of them in a sentence.
    sentences = [first_sentence]
    for element in noticed_elements:
        if isinstance(element, Thing):
            phrase = _phrase_with_size(style, element, chooser)
            place_phrase = PLACE_PHRASES[element.place]
            sentences.append(chooser.pick(style.small).format(a=phrase, place=place_phrase))
        else:
            # `ground`, `background` and `everywhere` have their own patterns. The left and the
            # right side share the patterns `beside`.
            patterns = getattr(style, element.where, style.beside)
            sentences.append(chooser.pick(patterns).format(s=element.kind, side=element.where))
    relation_sentence = _relation_sentence(style, things, chooser)
    if relation_sentence is not None:
        sentences.append(relation_sentence)
    return sentences[:_MAX_SENTENCES]


def _relation_sentence(style: Style, things: Sequence[Thing], chooser: _Chooser) -> str | None:
    """Return a sentence that relates a small thing to the dominant thing.

    For example, "we see a tiny red ball left of the house". The dominant thing is named by its
    kind, which is unique in a scene. Captioners write such a sentence in 40% of their captions.

    Args:
        style: The sentence patterns of the captioner.
        things: The dominant thing of the scene first, then at least two small things.
        chooser: Makes the random choices.

    Returns:
        The sentence, or None if the captioner writes none, or if the two things are near each
        other.
    """
    if not style.relation or not chooser.chance(0.4):
        return None
    small_thing = chooser.pick(things[1:])
    relation = relation_of(small_thing.box, things[0].box)
    if relation is None:
        return None
    phrase = _phrase_with_size(style, small_thing, chooser)
    return chooser.pick(style.relation).format(a=phrase, side=relation, b=things[0].kind)


def _phrase_with_size(style: Style, thing: Thing, chooser: _Chooser) -> str:
    """Return a phrase for a thing with its article, such as "a tiny red ball".

    The captioner's adjective for a small thing is left out in a fifth of the phrases.
    """
    adjective = style.small_adjective if thing.size == SMALL and chooser.chance(0.8) else ""
    return _with_article(_bare_phrase(thing, chooser, adjective))


def _bare_phrase(thing: Thing, chooser: _Chooser, adjective: str = "") -> str:
    """Return a phrase for a thing without an article, such as "red ball" or "tiny red ball".

    The colour is left out in 8% of the phrases.
    """
    colour = "" if chooser.chance(0.08) else thing.colour
    return " ".join(word for word in (adjective, colour, thing.kind) if word)


def _with_article(phrase: str) -> str:
    """Return a phrase with its indefinite article: "red ball" -> "a red ball"."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def join_sentences(sentences: Sequence[str], most_tokens: int) -> str:
    """Return the first sentences that fit into a number of tokens, joined by ". ".

    Args:
        sentences: Sentences without full stops.
        most_tokens: The largest number of tokens. Each word and each full stop is a token.

    Example::

        ["a red car", "a ball", "a tree"] with 6 tokens -> "a red car. a ball"
    """
    n_tokens = 0
    fitting_sentences = []
    for sentence in sentences:
        n_tokens += len(sentence.split())
        if n_tokens > most_tokens:
            break
        fitting_sentences.append(sentence)
        n_tokens += 1  # the full stop
    return ". ".join(fitting_sentences)


class _Claims(NamedTuple):
    """Two things as they are in a scene, and the same things as a false caption claims them."""

    correct: _Things
    false: _Things


def make_caption_pair(
    rng: np.random.Generator, things: Sequence[Thing], attribute: str
) -> tuple[str, str]:
    """Return a correct and a false caption of a scene, which differ in one attribute.

    Both captions are two sentences as captioner IB writes them, with colours that the kinds come
    in: models trained on scenes know texts like both. The false caption swaps the attribute between
    two things, which keeps the words. If every swap in a scene could be true, the attribute of one
    thing is replaced. One of all possible pairs of captions is drawn.

    Args:
        rng: The random generator.
        things: The dominant thing of the scene first, then at least two small things.
        attribute: A key of ATTRIBUTES, such as "colour".

    Example:
        "a small red ball on the left. a small blue car at the top" and "a small blue ball on the
        left. a small red car at the top".
    """
    # All pairs of two things as they are, and as a false caption claims them.
    possible_claims = _swapped_claims(things, attribute)
    if not possible_claims:
        possible_claims = _replaced_claims(things, attribute)
    claims = possible_claims[int(rng.integers(len(possible_claims)))]
    return _caption_of_two(claims.correct), _caption_of_two(claims.false)


def _swapped_claims(things: Sequence[Thing], attribute: str) -> list[_Claims]:
    """Return all pairs of things in which swapping an attribute makes a false caption.

    For example, swapping the colours of a red ball and a blue car gives a blue ball and a red car.
    A pair is left out unless both changed things are clearly absent from the scene.

    Args:
        things: All things of the scene.
        attribute: A key of ATTRIBUTES, such as "colour".
    """
    options = []
    for first, second in combinations(things, 2):
        changed_first = _with_value(first, attribute, getattr(second, attribute))
        changed_second = _with_value(second, attribute, getattr(first, attribute))
        if _is_clearly_false(changed_first, things) and _is_clearly_false(changed_second, things):
            options.append(_Claims((first, second), (changed_first, changed_second)))
    return options


def _replaced_claims(things: Sequence[Thing], attribute: str) -> list[_Claims]:
    """Return all pairs of things, with each clearly false value of an attribute in the second.

    For example, a red ball and a blue car may become a red ball and a green car, if there is no
    green car in the scene.

    Args:
        things: All things of the scene.
        attribute: A key of ATTRIBUTES, such as "colour".
    """
    options = []
    for first, second in combinations(things, 2):
        for value in ATTRIBUTES[attribute]:
            changed_second = _with_value(second, attribute, value)
            if _is_clearly_false(changed_second, things):
                options.append(_Claims((first, second), (first, changed_second)))
    return options


def _with_value(thing: Thing, attribute: str, value: Any) -> Thing:
    """Return a thing in which one attribute, such as "colour", has another value."""
    return thing._replace(**{attribute: value})


def _caption_of_two(things: _Things) -> str:
    """Return a caption with a sentence about each of two things, as captioner IB writes them.

    A large thing comes first: "a large red car in the center. a small blue ball on the left".
    """
    large_first = sorted(things, key=lambda thing: thing.size != LARGE)
    sentences = [
        f"a {thing.size} {thing.colour} {thing.kind} {PLACE_PHRASES[thing.place]}"
        for thing in large_first
    ]
    return ". ".join(sentences)


def _is_clearly_false(claimed_thing: Thing, things: Sequence[Thing]) -> bool:
    """Return whether a claimed thing is possible, but clearly not among the things of a scene.

    It is impossible if its kind does not come in its colour. It is not clearly absent if a thing of
    the same kind, colour and size is in the claimed place, or near it.

    Args:
        claimed_thing: The thing that a caption claims. Only its kind, colour, size and place count.
        things: All things of the scene.
    """
    if claimed_thing.colour not in COLOURS[claimed_thing.kind]:
        return False
    claimed_look = (claimed_thing.kind, claimed_thing.colour, claimed_thing.size)
    for thing in things:
        has_claimed_look = (thing.kind, thing.colour, thing.size) == claimed_look
        if has_claimed_look:
            distance = _distance_to_place(thing, claimed_thing.place)
            if distance < _MIN_WRONG_DISTANCE:
                return False
    return True


def _distance_to_place(thing: Thing, place: str) -> float:
    """Return the distance in pixels from a thing's centre to a place.

    A place is a ninth of the image. The distance is the larger one of the distances in x and in y,
    and 0 inside of the place.

    Args:
        thing: The thing, with its box in pixels.
        place: A key of PLACE_PHRASES, such as "left".

    Example:
        In an image of 128 pixels, the place "left" has x from 0 to 42.7, so that a centre at x = 50
        in the middle row has the distance 7.3.
    """
    # The places are numbered row by row.
    row, column = divmod(_PLACES.index(place), 3)
    x0, y0, x1, y1 = thing.box
    # The centre in thirds of the image. In these units, the place extends from `column` to
    # `column + 1`, and from `row` to `row + 1`.
    x = 1.5 * (x0 + x1) / SIDE
    y = 1.5 * (y0 + y1) / SIDE
    distance_x = max(column - x, x - column - 1, 0.0)
    distance_y = max(row - y, y - row - 1, 0.0)
    return max(distance_x, distance_y) * SIDE / 3
