"""Choices between two captions: read back from their words and held against the scenes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cosmos_core.data.scenes import COLOURS, SIDE, TEST, TRAIN
from cosmos_core.data.scenes.captions import ATTRIBUTES, PLACE_PHRASES, make_caption_pair
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.data.scenes.scene import Scene, split_scenes
from cosmos_core.data.scenes.vocabulary import words

SENTENCE = re.compile(r"a (large|small) (\w+) (\w+) ((?:in|at|on) the .+)")
PLACES = {phrase: place for place, phrase in PLACE_PHRASES.items()}
ORDER = ("size", "colour", "kind", "place")
# Centres of the thirds of a place, in thirds of the image.
ROWS = {"upper": 0, "top": 0, "lower": 2, "bottom": 2}
COLUMNS = {"left": 0, "right": 2}

Claim = tuple[str, ...]


@pytest.fixture(scope="module")
def some() -> list[Scene]:
    return list(split_scenes(TEST, 100))


@pytest.fixture(scope="module", params=ATTRIBUTES)
def chosen(request, some) -> tuple[str, list[tuple[Scene, tuple[str, str]]]]:
    rng = np.random.default_rng(0)
    return request.param, [
        (scene, make_caption_pair(rng, scene.things, request.param)) for scene in some
    ]


def read(caption: str) -> list[Claim]:
    """What a caption says, out of its words alone."""
    claims = []
    for sentence in caption.split(". "):
        found = SENTENCE.fullmatch(sentence)
        assert found, sentence
        *words, phrase = found.groups()
        claims.append((*words, PLACES[phrase]))
    return claims


def facts(scene: Scene) -> list[Claim]:
    return [(thing.size, thing.colour, thing.kind, thing.place) for thing in scene.things]


def test_the_right_caption_is_true_and_the_wrong_one_is_not(chosen):
    attribute, found = chosen
    for scene, choice in found:
        right, wrong = map(read, choice)
        assert len(set(right)) == len(right) == len(wrong) == 2
        assert set(right) <= set(facts(scene))
        # Whatever was changed is false: the wrong caption is not true by accident.
        changed = set(wrong) - set(right)
        assert changed
        assert not changed & set(facts(scene)), (attribute, choice)


def test_only_one_attribute_differs(chosen):
    attribute, found = chosen
    position = ORDER.index(attribute)
    for _, choice in found:
        rest = [
            Counter(claim[:position] + claim[position + 1 :] for claim in read(caption))
            for caption in choice
        ]
        assert rest[0] == rest[1]


def test_most_wrong_captions_have_the_words_of_the_right_one(chosen):
    attribute, found = chosen
    swapped = [
        Counter(re.findall(r"\w+", choice[0])) == Counter(re.findall(r"\w+", choice[1]))
        for _, choice in found
    ]
    assert np.mean(swapped) == 1 if attribute in ("place", "size") else np.mean(swapped) > 0.7


def test_a_wrong_place_is_clearly_wrong(some):
    rng = np.random.default_rng(1)
    for scene in some:
        choice = make_caption_pair(rng, scene.things, "place")
        for size, colour, kind, place in set(read(choice[1])) - set(read(choice[0])):
            column = next((COLUMNS[word] for word in place.split() if word in COLUMNS), 1)
            row = next((ROWS[word] for word in place.split() if word in ROWS), 1)
            for thing in scene.things:
                if (thing.size, thing.colour, thing.kind) == (size, colour, kind):
                    x = (thing.box[0] + thing.box[2]) / 2 * 3 / SIDE
                    y = (thing.box[1] + thing.box[3]) / 2 * 3 / SIDE
                    beyond = max(column - x, x - column - 1, row - y, y - row - 1)
                    assert beyond * SIDE / 3 >= 8


def shape(sentence: str) -> str:
    """A sentence without colour and kind."""
    return re.sub(r"\w+ \w+ (?=(in|at|on) the)", "", sentence)


@pytest.fixture(scope="module")
def trained_on() -> set[str]:
    """Shapes of the sentences that captioner IB says of training scenes."""
    training = split_scenes(TRAIN, 300)
    return {shape(text) for scene in training for text in scene.captions["longIB_captions"]}


def test_both_captions_are_of_the_kind_that_models_are_trained_on(chosen, trained_on):
    _, found = chosen
    for _, choice in found:
        for caption in choice:
            sizes = [claim[0] for claim in read(caption)]
            assert sizes in (["large", "small"], ["small", "small"])
            for _, colour, kind, _ in read(caption):
                assert colour in COLOURS[kind]
            for sentence in caption.split(". "):
                assert shape(sentence) in trained_on
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
