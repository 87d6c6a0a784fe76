"""Pairs of a correct and a false caption: their words are checked against the scenes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cosmos_core.data.scenes import COLOURS, SIDE, TEST, TRAIN
from cosmos_core.data.scenes.captions import ATTRIBUTES, PLACE_PHRASES, make_caption_pair
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.data.scenes.scene import Scene, split_scenes
from cosmos_core.data.scenes.vocabulary import words

SENTENCE = re.compile(r"a (large|small) (\w+) (\w+) ((?:in|at|on) the .+)")
PLACES = {phrase: place for place, phrase in PLACE_PHRASES.items()}
# Thirds of the image that a place names, from the top or from the left; else it is the middle one.
ROWS = {"upper": 0, "top": 0, "lower": 2, "bottom": 2}
COLUMNS = {"left": 0, "right": 2}


class Claim(NamedTuple):
    """What a sentence says about one thing."""

    size: str
    colour: str
    kind: str
    place: str  # a key of PLACE_PHRASES


class Choice(NamedTuple):
    """A scene, and its pair of captions."""

    scene: Scene
    caption: str
    false_caption: str


class Choices(NamedTuple):
    """Choices whose false captions have a false attribute."""

    attribute: str  # one of ATTRIBUTES
    choices: list[Choice]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(split_scenes(TEST, 100))


@pytest.fixture(scope="module", params=ATTRIBUTES)
def choices_of_attribute(request, scenes) -> Choices:
    attribute, rng = request.param, np.random.default_rng(0)
    choices = []
    for scene in scenes:
        caption, false_caption = make_caption_pair(rng, scene.things, attribute)
        choices.append(Choice(scene, caption, false_caption))
    return Choices(attribute, choices)


def parse(caption: str) -> list[Claim]:
    """Return what each sentence of a caption says, by its words alone."""
    claims = []
    for sentence in caption.split(". "):
        match = SENTENCE.fullmatch(sentence)
        assert match, sentence
        size, colour, kind, place_phrase = match.groups()
        claims.append(Claim(size, colour, kind, PLACES[place_phrase]))
    return claims


def facts(scene: Scene) -> set[Claim]:
    """Return what is true of the things of a scene."""
    return {Claim(thing.size, thing.colour, thing.kind, thing.place) for thing in scene.things}


def test_the_caption_is_true_and_the_false_one_is_not(choices_of_attribute):
    for choice in choices_of_attribute.choices:
        claims, false_claims = parse(choice.caption), parse(choice.false_caption)
        assert len(set(claims)) == len(claims) == len(false_claims) == 2
        assert set(claims) <= facts(choice.scene)
        # A changed claim must not be true of another thing of the scene.
        changed_claims = set(false_claims) - set(claims)
        assert changed_claims
        assert not changed_claims & facts(choice.scene), (choices_of_attribute.attribute, choice)


def test_only_one_attribute_differs(choices_of_attribute):
    attribute, choices = choices_of_attribute
    for choice in choices:
        claims = [claim._replace(**{attribute: ""}) for claim in parse(choice.caption)]
        false_claims = [claim._replace(**{attribute: ""}) for claim in parse(choice.false_caption)]
        assert Counter(claims) == Counter(false_claims)


def count_words(caption: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", caption))


def test_most_false_captions_have_the_words_of_the_correct_one(choices_of_attribute):
    attribute, choices = choices_of_attribute
    has_same_words = [
        count_words(choice.caption) == count_words(choice.false_caption) for choice in choices
    ]
    if attribute in ("place", "size"):
        assert all(has_same_words)
    else:
        assert np.mean(has_same_words) > 0.7


def test_a_false_place_is_at_least_8_pixels_from_the_thing(scenes):
    rng = np.random.default_rng(1)
    third = SIDE / 3  # pixels
    for scene in scenes:
        caption, false_caption = make_caption_pair(rng, scene.things, "place")
        for claim in set(parse(false_caption)) - set(parse(caption)):
            place_words = claim.place.split()
            column = next((COLUMNS[word] for word in place_words if word in COLUMNS), 1)
            row = next((ROWS[word] for word in place_words if word in ROWS), 1)
            for thing in scene.things:
                if (thing.size, thing.colour, thing.kind) != claim[:3]:
                    continue
                x = (thing.box[0] + thing.box[2]) / 2
                y = (thing.box[1] + thing.box[3]) / 2
                distance_x = max(column * third - x, x - (column + 1) * third)
                distance_y = max(row * third - y, y - (row + 1) * third)
                assert max(distance_x, distance_y) >= 8


def pattern_of(sentence: str) -> str:
    """Return a sentence without its colour and kind, such as "a large in the center"."""
    return re.sub(r"\w+ \w+ (?=(in|at|on) the)", "", sentence)


@pytest.fixture(scope="module")
def training_patterns() -> set[str]:
    """The patterns of the sentences with which captioner IB describes training scenes."""
    sentences = []
    for scene in split_scenes(TRAIN, 300):
        sentences += scene.captions["longIB_captions"]
    return {pattern_of(sentence) for sentence in sentences}


def test_both_captions_are_like_the_ones_that_models_are_trained_on(
    choices_of_attribute, training_patterns
):
    for choice in choices_of_attribute.choices:
        for caption in (choice.caption, choice.false_caption):
            claims = parse(caption)
            sizes = [claim.size for claim in claims]
            assert sizes in (["large", "small"], ["small", "small"])
            for claim in claims:
                assert claim.colour in COLOURS[claim.kind]
            for sentence in caption.split(". "):
                assert pattern_of(sentence) in training_patterns
                assert set(sentence.split()) <= set(words())


def test_files_in_sugarcrepes_form_are_the_same_every_time(tmp_path: Path):
    for name in ("a", "b"):
        write_layouts(tmp_path / name, count=12, layouts=["choices"])
    for attribute in ATTRIBUTES:
        text = (tmp_path / "a" / "choices" / f"{attribute}.json").read_text()
        assert text == (tmp_path / "b" / "choices" / f"{attribute}.json").read_text()
        records = json.loads(text)
        assert list(records) == [str(index) for index in range(12)]
        for number, record in enumerate(records.values(), start=1):
            assert set(record) == {"filename", "caption", "negative_caption"}
            assert record["filename"] == f"{number:012d}.jpg"
