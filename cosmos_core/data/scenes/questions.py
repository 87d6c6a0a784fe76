"""Questions about single things of a scene: is the dominant thing known, and are small things?

A question has a correct caption and false captions. They are about the scenes of version 2, in
which every kind of thing is at most once in a scene.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cosmos_core.data.scenes import Version
from cosmos_core.data.scenes.captions import PLACE_PHRASES, Thing

DOMINANT, SMALL_OBJECT = "dominant", "small"  # what a question is about
WORDS = ("kind", "colour", "place")  # the word that is false in a false caption
N_SIBLINGS = 10  # captions of one choice among scenes with the same dominant thing
_MOST_SMALL_THINGS = 3  # in such a caption, so that it fits into the context


class Question(NamedTuple):
    """A correct caption of a scene, and the same caption with one false word."""

    caption: str
    false_caption: str
    # DOMINANT or SMALL_OBJECT: the thing whose word is false. In a control, the thing that
    # dominates the other scene counts as dominant.
    object: str
    # The false word, one of WORDS.
    word: str
    # The visible area of that thing, and of the largest thing, as fractions of the image.
    area: float
    dominant_area: float


def ask_questions(
    rng: np.random.Generator, things: Sequence[Thing], version: Version
) -> list[Question]:
    """Return up to six questions: each of WORDS of the dominant thing, and of one small thing.

    There is none about the place of a thing in the center, which has no mirror image.

    All questions have the same correct caption, which names both things in a random order. So the
    questions about the dominant thing differ from those about the small thing only in the thing
    whose word is false.

    Args:
        rng: The random generator.
        things: The dominant thing of a scene first, then at least two small things.
        version: The version of the scenes.

    Example:
        "a small blue ball on the left. a large red car in the center" and, for the colour of the
        small thing, "a small green ball on the left. a large red car in the center".
    """
    small_thing = things[1 + int(rng.integers(len(things) - 1))]
    dominant_is_first = rng.random() < 0.5
    questions = []
    for target, role in ((things[0], DOMINANT), (small_thing, SMALL_OBJECT)):
        for word in WORDS:
            # Drawn for every word, so that a scene and its control have the same false words even
            # if only one of their dominant things is in the center.
            draw = rng.random()
            false_words = _false_words(target, word, things, version)
            if not false_words:
                continue
            change: dict[str, Any] = {word: false_words[int(draw * len(false_words))]}
            claimed_thing = target._replace(**change)
            named_things = [things[0], small_thing]
            claimed_things = [claimed_thing if thing is target else thing for thing in named_things]
            if not dominant_is_first:
                named_things.reverse()
                claimed_things.reverse()
            question = Question(
                caption=_caption_of(named_things),
                false_caption=_caption_of(claimed_things),
                object=role,
                word=word,
                area=target.area,
                dominant_area=max(thing.area for thing in things),
            )
            questions.append(question)
    return questions


def _false_words(
    thing: Thing, word: str, things: Sequence[Thing], version: Version
) -> Sequence[str]:
    """Return the words that are clearly false for a thing.

    Over many scenes, each of them is as frequent as it is as a correct word, and kinds have only
    their own colours, so that captions alone do not give the answer away.

    Args:
        thing: The thing as it is.
        word: "kind": the kinds that have this colour, and that no thing of the scene has.
            "colour": the other colours of the kind. "place": the mirror images of its place, to the
            other side, to the top or the bottom, or both; none for the center.
        things: All things of the scene.
        version: The version of the scenes, which has the kinds and their colours.
    """
    if word == "kind":
        kinds_in_scene = {thing_of_scene.kind for thing_of_scene in things}
        kinds_of_colour = [
            kind for kind, colours in version.colours.items() if thing.colour in colours
        ]
        return [kind for kind in kinds_of_colour if kind not in kinds_in_scene]
    if word == "colour":
        return [colour for colour in version.colours[thing.kind] if colour != thing.colour]
    return _mirrored_places(thing.place)


def _mirrored_places(place: str) -> list[str]:
    """Return the mirror images of a place that differ from it.

    Example::

        "upper left" -> ["upper right", "lower left", "lower right"]
        "left" -> ["right"]
        "center" -> []
    """
    places = [*PLACE_PHRASES]  # the ninths of an image, row by row
    row, column = divmod(places.index(place), 3)
    mirrored_places = []
    for mirrored_row, mirrored_column in (
        (row, 2 - column),
        (2 - row, column),
        (2 - row, 2 - column),
    ):
        mirrored_place = places[3 * mirrored_row + mirrored_column]
        if mirrored_place != place and mirrored_place not in mirrored_places:
            mirrored_places.append(mirrored_place)
    return mirrored_places


def _caption_of(things: Sequence[Thing]) -> str:
    """Return a caption with a sentence about each thing, as captioner IB writes them."""
    return ". ".join(_sentence_about(thing) for thing in things)


def _sentence_about(thing: Thing) -> str:
    """Return a sentence about a thing, such as "a small blue ball on the left"."""
    return f"a {thing.size} {thing.colour} {thing.kind} {PLACE_PHRASES[thing.place]}"


class SiblingChoice(NamedTuple):
    """A scene with its caption, and the captions of scenes with the same dominant thing."""

    # The index of the scene.
    scene: int
    caption: str
    false_captions: tuple[str, ...]


def choose_among_siblings(scenes: Sequence[Sequence[Thing]]) -> list[SiblingChoice]:
    """Return a choice for each scene: its caption among the captions of its siblings.

    Siblings are scenes whose dominant things have the same kind and colour. Captions name the
    dominant thing without its place, and then up to three small things. So only small things decide
    which caption belongs to a scene.

    Args:
        scenes: The things of each scene, the dominant thing first. For each kind and colour of the
            dominant thing, the number of scenes is a multiple of N_SIBLINGS.

    Raises:
        ValueError: If a group of siblings cannot be split into parts of N_SIBLINGS scenes.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index, things in enumerate(scenes):
        groups.setdefault((things[0].kind, things[0].colour), []).append(index)
    choices = []
    for (kind, colour), indices in groups.items():
        if len(indices) % N_SIBLINGS:
            raise ValueError(
                f"{len(indices)} scenes have a dominant {colour} {kind}: not a multiple of "
                f"{N_SIBLINGS}"
            )
        for start in range(0, len(indices), N_SIBLINGS):
            siblings = indices[start : start + N_SIBLINGS]
            captions = [_sibling_caption(scenes[index]) for index in siblings]
            for place, index in enumerate(siblings):
                false_captions = (*captions[:place], *captions[place + 1 :])
                choices.append(SiblingChoice(index, captions[place], false_captions))
    return sorted(choices)


def _sibling_caption(things: Sequence[Thing]) -> str:
    """Return a caption such as "a large red car. a small blue ball on the left. ..."."""
    dominant = things[0]
    sentences = [f"a {dominant.size} {dominant.colour} {dominant.kind}"]
    for thing in things[1 : 1 + _MOST_SMALL_THINGS]:
        sentences.append(_sentence_about(thing))
    return ". ".join(sentences)
