"""Scenes of version 2: balanced things, splits by drawing, controls and questions."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from cosmos_core.data.scenes import (
    PALETTE,
    STUFF,
    TEST,
    TEST_SEEN,
    TRAIN,
    VALIDATION,
    VERSION_1,
    VERSION_2,
)
from cosmos_core.data.scenes.captions import PLACE_PHRASES
from cosmos_core.data.scenes.layouts import joined_caption, write_layouts
from cosmos_core.data.scenes.questions import (
    DOMINANT,
    WORDS,
    ask_questions,
    choose_among_siblings,
)
from cosmos_core.data.scenes.scene import split_scenes
from cosmos_core.data.scenes.sprites import draw_sprites
from cosmos_core.data.scenes.vocabulary import merges_file, scenes_tokenizer, words, write_merges


@pytest.fixture(scope="module")
def scenes():
    return [*split_scenes(TEST, 240, version=VERSION_2)]


@pytest.fixture(scope="module")
def controls():
    return [*split_scenes(TEST, 60, version=VERSION_2, is_control=True)]


def test_there_are_thirty_kinds_and_every_colour_belongs_to_thirteen_or_fourteen():
    assert len(set(VERSION_2.things)) == 30
    assert sorted(VERSION_2.things) == [*VERSION_2.things]
    counts = Counter(colour for colours in VERSION_2.colours.values() for colour in colours)
    assert set(counts) == set(PALETTE)
    assert set(counts.values()) <= {13, 14}
    assert {len(set(colours)) for colours in VERSION_2.colours.values()} == {4}


def test_each_kind_and_colour_dominates_equally_often(scenes):
    looks = Counter((scene.things[0].kind, scene.things[0].colour) for scene in scenes)
    assert len(looks) == 120
    assert set(looks.values()) == {2}


def test_kinds_of_a_scene_differ_and_the_map_has_them(scenes):
    for scene in scenes:
        kinds = [thing.kind for thing in scene.things]
        assert len(set(kinds)) == len(kinds)
        assert 3 <= len(kinds) <= 5
        present = {VERSION_2.classes[index] for index in np.unique(scene.label_map)}
        assert present - set(STUFF) == set(kinds)
        for thing in scene.things:
            pixels = scene.label_map == VERSION_2.classes.index(thing.kind)
            assert pixels.mean() == pytest.approx(thing.area)


def test_dominant_things_are_about_equally_often_in_all_places(scenes):
    places = Counter(scene.things[0].place for scene in scenes)
    assert set(places) == set(PLACE_PHRASES)
    # 240 scenes and nine places: a standard deviation of 4.9 around 26.7.
    assert min(places.values()) > 10
    assert max(places.values()) < 45


def test_splits_share_no_drawing_and_no_texture_but_for_the_seen_ones():
    for number, name in enumerate((TRAIN, VALIDATION, TEST)):
        for other in (TRAIN, VALIDATION, TEST)[number + 1 :]:
            split, other_split = VERSION_2.splits[name], VERSION_2.splits[other]
            assert not set(split.drawings) & set(other_split.drawings)
            assert not set(split.textures) & set(other_split.textures)
    seen = VERSION_2.splits[TEST_SEEN]
    train = VERSION_2.splits[TRAIN]
    assert (seen.drawings, seen.textures) == (train.drawings, train.textures)
    assert len({split.seed for split in VERSION_2.splits.values()}) == 4


def test_drawings_of_other_numbers_and_versions_differ():
    images = [draw_sprites("car", "white", number, "scenes2")["large"] for number in range(22)]
    assert len({image.tobytes() for image in images}) == 22
    first = draw_sprites("car", "white", 0, "scenes")["large"]
    assert first.tobytes() not in {image.tobytes() for image in images}


def test_a_control_differs_in_the_dominant_thing_alone(scenes, controls):
    for scene, control in zip(scenes[:60], controls, strict=True):
        dominant, small_dominant = scene.things[0], control.things[0]
        assert (dominant.kind, dominant.colour) == (small_dominant.kind, small_dominant.colour)
        assert (dominant.size, small_dominant.size) == ("large", "small")
        assert small_dominant.area < 0.5 * dominant.area
        looks = [[t[:3] for t in s.things[1:]] for s in (scene, control)]
        assert looks[0] == looks[1]
        # Outside of the box of the large thing, with its light, every pixel is equal.
        x0, y0, x1, y1 = dominant.box
        outside = np.ones(scene.label_map.shape, bool)
        outside[max(0, y0 - 8) : y1 + 8, max(0, x0 - 8) : x1 + 8] = False
        assert np.array_equal(scene.image[outside], control.image[outside])
        inside = ~outside
        assert not np.array_equal(scene.image[inside], control.image[inside])


def test_the_dominant_thing_of_a_control_is_as_large_as_the_others(controls):
    dominant = np.mean([scene.things[0].area for scene in controls])
    small = np.mean([thing.area for scene in controls for thing in scene.things[1:]])
    assert 0.85 < dominant / small < 1.3


def parse(sentence):
    """The size, colour, kind and place of `a small red ball on the left`, or without place."""
    _, size, colour, kind, *place = sentence.split()
    return size, colour, kind, " ".join(place)


def questions_of(scene, seed):
    return ask_questions(np.random.default_rng(seed), scene.things, VERSION_2)


def test_questions_are_about_both_roles_and_one_word(scenes):
    for number, scene in enumerate(scenes[:100]):
        questions = questions_of(scene, number)
        asked = [(q.object, q.word) for q in questions]
        all_six = [(role, word) for role in ("dominant", "small") for word in WORDS]
        # Only questions about the place of a thing in the center are left out.
        assert {("dominant", "place"), ("small", "place")} >= {*all_six} - {*asked}
        assert (("dominant", "place") in asked) == (scene.things[0].place != "center")
        assert asked == [pair for pair in all_six if pair in asked]
        assert len({q.caption for q in questions}) == 1
        records = {thing.kind: thing for thing in scene.things}
        for question in questions:
            said = [parse(sentence) for sentence in question.caption.split(". ")]
            for size, colour, kind, place in said:
                thing = records[kind]
                assert (size, colour, place) == (
                    thing.size,
                    thing.colour,
                    PLACE_PHRASES[thing.place],
                )
            false = [parse(sentence) for sentence in question.false_caption.split(". ")]
            ((true_thing, false_thing),) = [
                pair for pair in zip(said, false, strict=True) if pair[0] != pair[1]
            ]
            is_dominant = true_thing[2] == scene.things[0].kind
            assert (question.object == DOMINANT) == is_dominant
            changed = [a != b for a, b in zip(true_thing, false_thing, strict=True)]
            assert changed == [
                word == question.word for word in ("size", "colour", "kind", "place")
            ]
            assert question.area == records[true_thing[2]].area
            assert question.dominant_area == scene.things[0].area
            if question.word == "kind":
                assert false_thing[2] not in records
            if question.word == "colour":
                assert false_thing[1] in VERSION_2.colours[true_thing[2]]


def test_a_false_place_is_clearly_elsewhere(scenes):
    bounds = {"left": (0, 1), "center": (1, 2), "right": (2, 3)}
    for number, scene in enumerate(scenes[:100]):
        for question in questions_of(scene, number):
            if question.word != "place":
                continue
            pairs = zip(
                question.caption.split(". "), question.false_caption.split(". "), strict=True
            )
            ((true_sentence, false_sentence),) = [pair for pair in pairs if pair[0] != pair[1]]
            kind = parse(true_sentence)[2]
            (thing,) = [thing for thing in scene.things if thing.kind == kind]
            words_of_place = set(parse(false_sentence)[3].split())
            column = bounds[next(iter(words_of_place & {"left", "right"}), "center")]
            is_upper, is_lower = (
                words_of_place & {"upper", "top"},
                words_of_place & {"lower", "bottom"},
            )
            row = (0, 1) if is_upper else (2, 3) if is_lower else (1, 2)
            x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
            third = 128 / 3
            outside = [
                max(low * third - centre, centre - high * third)
                for (low, high), centre in ((column, x), (row, y))
            ]
            assert max(outside) >= 8


def test_words_alone_do_not_answer_questions(scenes):
    # The better of two guesses from the words of other scenes: the word that is more frequent in
    # correct captions, or the one that is less frequent in false captions. Chance is a half. For
    # 120 answers, the standard deviation is 4.6 points, or less with ties.
    for role in ("dominant", "small"):
        for position, word in enumerate(("colour", "kind", "place"), start=1):
            correct, false = [], []
            for number, scene in enumerate(scenes):
                for question in questions_of(scene, number):
                    if (question.object, question.word) != (role, word):
                        continue
                    pairs = zip(
                        question.caption.split(". "),
                        question.false_caption.split(". "),
                        strict=True,
                    )
                    ((a, b),) = [pair for pair in pairs if pair[0] != pair[1]]
                    correct.append(parse(a)[position])
                    false.append(parse(b)[position])
            half = len(correct) // 2
            seen_correct, seen_false = Counter(correct[:half]), Counter(false[:half])
            for sign, frequency in ((1, seen_correct), (-1, seen_false)):
                answers = [
                    0.5 + 0.5 * sign * np.sign(frequency[a] - frequency[b])
                    for a, b in zip(correct[half:], false[half:], strict=True)
                ]
                assert abs(np.mean(answers) - 0.5) < 0.15, (role, word, sign)


def test_siblings_share_the_dominant_thing_and_differ_in_captions():
    # Ten scenes of each of six kinds and colours.
    scenes = []
    for start in range(0, 1200, 120):
        scenes += [scene.things for scene in split_scenes(TEST, 6, start, version=VERSION_2)]
    choices = choose_among_siblings(scenes)
    assert [choice.scene for choice in choices] == list(range(60))
    for choice in choices:
        captions = [choice.caption, *choice.false_captions]
        assert len(set(captions)) == 10
        assert {caption.partition(". ")[0] for caption in captions} == {
            f"a large {scenes[choice.scene][0].colour} {scenes[choice.scene][0].kind}"
        }
        for sentence in choice.caption.split(". ")[1:]:
            _, colour, kind, place = parse(sentence)
            assert (colour, kind, place) in [
                (t.colour, t.kind, PLACE_PHRASES[t.place]) for t in scenes[choice.scene]
            ]
    tokenizer = scenes_tokenizer(VERSION_2.context_length, VERSION_2)
    longest = max(len(tokenizer.encode(choice.caption)) for choice in choices)
    assert longest <= VERSION_2.context_length - 2
    with pytest.raises(ValueError, match="not a multiple of 10"):
        choose_among_siblings(scenes[:11])


def test_each_word_is_one_token_and_the_bundled_file_is_the_one_of_this_code(tmp_path, scenes):
    tokenizer = scenes_tokenizer(VERSION_2.context_length, VERSION_2)
    assert all(len(tokenizer.encode(word)) == 1 for word in words("scenes2"))
    write_merges(tmp_path / "merges.gz", "scenes2")
    assert (tmp_path / "merges.gz").read_bytes() == merges_file(VERSION_2).read_bytes()
    assert tokenizer.vocab_size != scenes_tokenizer().vocab_size
    for scene in scenes:
        caption = joined_caption(scene, VERSION_2)
        assert len(tokenizer.encode(caption)) <= VERSION_2.context_length - 2
        texts = [text for texts in scene.captions.values() for text in texts]
        assert {word for text in texts for word in text.split()} <= set(words("scenes2"))


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_the_quick_tokenizer_gives_the_tokens_of_openclip(version):
    quick = scenes_tokenizer(40, version)
    slow = SimpleTokenizer(bpe_path=str(merges_file(version)), context_length=40)
    texts = ["A Red  car.", "unknownword ball", "ball.", "a  ball", "", "it's", "red car. ", ". ."]
    for scene in split_scenes(TRAIN, 20, version=version):
        for sentences in scene.captions.values():
            texts += [*sentences, ". ".join(sentences)]
    assert [quick.encode(text) for text in texts] == [slow.encode(text) for text in texts]
    assert torch.equal(quick(texts), slow(texts))


def test_layouts_of_questions_hold_what_the_scenes_say(tmp_path, scenes):
    root = write_layouts(
        tmp_path / "few", split=TEST, count=3, layouts=["coco", "questions"], version=VERSION_2
    )
    colours = json.loads((root / "questions" / "colour.json").read_text())
    assert [item["object"] for item in colours.values()] == ["dominant", "small"] * 3
    first = questions_of(scenes[0], 1)[1]
    assert colours["0"] == {
        "filename": "000000000001.jpg",
        "caption": first.caption,
        "negative_caption": first.false_caption,
        "object": "dominant",
        "word": "colour",
        "area": first.area,
        "dominant_area": first.dominant_area,
    }
    with pytest.raises(ValueError, match=r"train, test$"):
        split_scenes(TEST_SEEN, 1, version=VERSION_1)
