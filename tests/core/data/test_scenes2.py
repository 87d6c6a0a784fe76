"""Scenes of version 2: balanced things, splits by drawing, controls and questions.

In a control, the dominant thing is as small as the others, and everything else is as in the scene
of the same index.
"""

import itertools
import json
from collections import Counter
from typing import NamedTuple

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
    """Two scenes of each of the 120 combinations of a kind and one of its four colours."""
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


def test_a_scene_has_a_kind_once_and_the_label_map_has_its_area(scenes):
    for scene in scenes:
        kinds = [thing.kind for thing in scene.things]
        assert len(set(kinds)) == len(kinds)
        assert 3 <= len(kinds) <= 5
        classes = {VERSION_2.classes[index] for index in np.unique(scene.label_map)}
        assert classes - set(STUFF) == set(kinds)
        for thing in scene.things:
            pixels = scene.label_map == VERSION_2.classes.index(thing.kind)
            assert pixels.mean() == pytest.approx(thing.area)


def test_dominant_things_are_about_equally_often_in_all_places(scenes):
    places = Counter(scene.things[0].place for scene in scenes)
    assert set(places) == set(PLACE_PHRASES)
    # 240 scenes and nine places: a standard deviation of 4.9 around 26.7.
    assert min(places.values()) > 10
    assert max(places.values()) < 45


def test_splits_share_no_drawing_and_no_texture_except_test_seen_with_train():
    disjoint_splits = [VERSION_2.splits[name] for name in (TRAIN, VALIDATION, TEST)]
    for split, other_split in itertools.combinations(disjoint_splits, 2):
        assert not set(split.drawings) & set(other_split.drawings)
        assert not set(split.textures) & set(other_split.textures)
    test_seen = VERSION_2.splits[TEST_SEEN]
    train = VERSION_2.splits[TRAIN]
    assert (test_seen.drawings, test_seen.textures) == (train.drawings, train.textures)
    assert len({split.seed for split in VERSION_2.splits.values()}) == 4


def test_drawings_of_other_numbers_and_versions_differ():
    images = [draw_sprites("car", "white", number, "scenes2")["large"] for number in range(22)]
    assert len({image.tobytes() for image in images}) == 22
    image_of_version_1 = draw_sprites("car", "white", 0, "scenes")["large"]
    assert image_of_version_1.tobytes() not in {image.tobytes() for image in images}


def test_a_control_differs_only_in_the_dominant_thing(scenes, controls):
    for scene, control in zip(scenes[:60], controls, strict=True):
        dominant, small_dominant = scene.things[0], control.things[0]
        assert (dominant.kind, dominant.colour) == (small_dominant.kind, small_dominant.colour)
        assert (dominant.size, small_dominant.size) == ("large", "small")
        assert small_dominant.area < 0.5 * dominant.area
        small_things = [(t.kind, t.colour, t.size) for t in scene.things[1:]]
        assert small_things == [(t.kind, t.colour, t.size) for t in control.things[1:]]
        # Pixels differ only in the box of the large thing and 8 pixels around it, where its light
        # and its shadow fall.
        x0, y0, x1, y1 = dominant.box
        may_differ = np.zeros(scene.label_map.shape, bool)
        may_differ[max(0, y0 - 8) : y1 + 8, max(0, x0 - 8) : x1 + 8] = True
        assert np.array_equal(scene.image[~may_differ], control.image[~may_differ])
        assert not np.array_equal(scene.image[may_differ], control.image[may_differ])


def test_the_dominant_thing_of_a_control_is_as_large_as_the_others(controls):
    dominant = np.mean([scene.things[0].area for scene in controls])
    small = np.mean([thing.area for scene in controls for thing in scene.things[1:]])
    assert 0.85 < dominant / small < 1.3


class Statement(NamedTuple):
    """The four claims of a sentence such as "a small red ball on the left"."""

    size: str
    colour: str
    kind: str
    place: str  # a value of PLACE_PHRASES, or "" if the sentence names no place


def parse(sentence):
    """Return what a sentence of a question says about a thing, as a Statement."""
    _article, size, colour, kind, *place_words = sentence.split()
    return Statement(size, colour, kind, " ".join(place_words))


def parse_caption(caption):
    return [parse(sentence) for sentence in caption.split(". ")]


def statement_about(thing):
    """Return what is true of a thing of a scene."""
    return Statement(thing.size, thing.colour, thing.kind, PLACE_PHRASES[thing.place])


def find_changed_statement(question):
    """Return the one statement that differs, as in the correct and as in the false caption."""
    statements = parse_caption(question.caption)
    false_statements = parse_caption(question.false_caption)
    pairs = zip(statements, false_statements, strict=True)
    (changed_pair,) = [(true, false) for true, false in pairs if true != false]
    return changed_pair


def questions_of(scene, seed):
    return ask_questions(np.random.default_rng(seed), scene.things, VERSION_2)


def test_questions_are_about_both_roles_and_falsify_one_word(scenes):
    all_six = [(role, word) for role in ("dominant", "small") for word in WORDS]
    for index, scene in enumerate(scenes[:100]):
        questions = questions_of(scene, index)
        asked = [(question.object, question.word) for question in questions]
        # Only questions about the place of a thing in the center are left out.
        assert {("dominant", "place"), ("small", "place")} >= {*all_six} - {*asked}
        assert (("dominant", "place") in asked) == (scene.things[0].place != "center")
        assert asked == [role_and_word for role_and_word in all_six if role_and_word in asked]
        assert len({question.caption for question in questions}) == 1
        for question in questions:
            check_question(scene, question)


def check_question(scene, question):
    """Check that the caption is true, and that only the word that is asked for is false."""
    dominant = scene.things[0]
    things_by_kind = {thing.kind: thing for thing in scene.things}
    for statement in parse_caption(question.caption):
        assert statement == statement_about(things_by_kind[statement.kind])

    true_statement, false_statement = find_changed_statement(question)
    changed_fields = [
        field
        for field in Statement._fields
        if getattr(true_statement, field) != getattr(false_statement, field)
    ]
    assert changed_fields == [question.word]
    if question.word == "kind":
        assert false_statement.kind not in things_by_kind
        # A colour that the kind never has would give the false caption away.
        assert true_statement.colour in VERSION_2.colours[false_statement.kind]
    if question.word == "colour":
        assert false_statement.colour in VERSION_2.colours[true_statement.kind]

    assert (question.object == DOMINANT) == (true_statement.kind == dominant.kind)
    assert question.area == things_by_kind[true_statement.kind].area
    assert question.dominant_area == dominant.area


def test_a_scene_and_its_control_ask_for_the_same_words_of_the_small_thing(scenes, controls):
    for index, (scene, control) in enumerate(zip(scenes[:60], controls, strict=True)):
        # Only one of the dominant things is in the center, of which no place is asked.
        things = [scene.things[0]._replace(place="center"), *scene.things[1:]]
        control_things = [control.things[0]._replace(place="left"), *control.things[1:]]
        assert words_of_small_thing(things, index) == words_of_small_thing(control_things, index)


def words_of_small_thing(things, seed):
    """Return the true and the false word of each question about the small thing but for places."""
    words_by_name = {}
    for question in ask_questions(np.random.default_rng(seed), things, VERSION_2):
        if question.object == "small" and question.word != "place":
            statements = find_changed_statement(question)
            words_by_name[question.word] = [getattr(text, question.word) for text in statements]
    assert set(words_by_name) == {"kind", "colour"}
    return words_by_name


def test_a_false_place_is_at_least_8_pixels_from_the_thing(scenes):
    third = 128 / 3  # pixels
    for index, scene in enumerate(scenes[:100]):
        for question in questions_of(scene, index):
            if question.word != "place":
                continue
            true_statement, false_statement = find_changed_statement(question)
            (thing,) = [thing for thing in scene.things if thing.kind == true_statement.kind]
            column, row = column_and_row(false_statement.place)
            centre_x = (thing.box[0] + thing.box[2]) / 2
            centre_y = (thing.box[1] + thing.box[3]) / 2
            distance_x = max(column * third - centre_x, centre_x - (column + 1) * third)
            distance_y = max(row * third - centre_y, centre_y - (row + 1) * third)
            assert max(distance_x, distance_y) >= 8


def column_and_row(place_phrase):
    """Return which third of the image a place is in: 0 to 2 from the left, and from the top."""
    place_words = set(place_phrase.split())
    column = row = 1
    if "left" in place_words:
        column = 0
    elif "right" in place_words:
        column = 2
    if place_words & {"upper", "top"}:
        row = 0
    elif place_words & {"lower", "bottom"}:
        row = 2
    return column, row


def test_questions_cannot_be_answered_without_the_image(scenes):
    for role in ("dominant", "small"):
        for word in ("colour", "kind", "place"):
            check_guesses_from_frequencies(scenes, role, word)


def check_guesses_from_frequencies(scenes, role, word):
    """Check that the frequencies of words in half of the questions do not answer the others.

    The guess is the word that is more often in correct captions, or the one that is less often in
    false captions. Chance is a half. For 120 answers, the standard deviation is 4.6 points, or less
    with ties.
    """
    correct_words, false_words = [], []
    for index, scene in enumerate(scenes):
        for question in questions_of(scene, index):
            if (question.object, question.word) == (role, word):
                true_statement, false_statement = find_changed_statement(question)
                correct_words.append(getattr(true_statement, word))
                false_words.append(getattr(false_statement, word))
    half = len(correct_words) // 2
    correct_counts, false_counts = Counter(correct_words[:half]), Counter(false_words[:half])
    for sign, counts in ((1, correct_counts), (-1, false_counts)):
        # 1 for a correct guess, 0 for a wrong one, and a half for a tie.
        scores = [
            0.5 + 0.5 * sign * np.sign(counts[correct_word] - counts[false_word])
            for correct_word, false_word in zip(
                correct_words[half:], false_words[half:], strict=True
            )
        ]
        assert abs(np.mean(scores) - 0.5) < 0.15, (role, word, sign)


def test_siblings_share_the_dominant_thing_and_differ_in_captions():
    # Ten scenes of each of six kinds and colours, which return after 120 scenes.
    things_of_scenes = []
    for start in range(0, 1200, 120):
        for scene in split_scenes(TEST, 6, start, version=VERSION_2):
            things_of_scenes.append(scene.things)
    choices = choose_among_siblings(things_of_scenes)
    assert [choice.scene for choice in choices] == list(range(60))
    for choice in choices:
        things = things_of_scenes[choice.scene]
        captions = [choice.caption, *choice.false_captions]
        assert len(set(captions)) == 10
        first_sentences = {caption.partition(". ")[0] for caption in captions}
        assert first_sentences == {f"a large {things[0].colour} {things[0].kind}"}
        facts = [(thing.colour, thing.kind, PLACE_PHRASES[thing.place]) for thing in things]
        for sentence in choice.caption.split(". ")[1:]:
            _size, colour, kind, place = parse(sentence)
            assert (colour, kind, place) in facts
    tokenizer = scenes_tokenizer(VERSION_2.context_length, VERSION_2)
    longest = max(len(tokenizer.encode(choice.caption)) for choice in choices)
    assert longest <= VERSION_2.context_length - 2  # the start and the end token
    with pytest.raises(ValueError, match="not a multiple of 10"):
        choose_among_siblings(things_of_scenes[:11])


def test_each_word_is_one_token_and_the_bundled_merges_are_what_the_code_writes(tmp_path, scenes):
    tokenizer = scenes_tokenizer(VERSION_2.context_length, VERSION_2)
    assert all(len(tokenizer.encode(word)) == 1 for word in words("scenes2"))
    write_merges(tmp_path / "merges.gz", "scenes2")
    assert (tmp_path / "merges.gz").read_bytes() == merges_file(VERSION_2).read_bytes()
    assert tokenizer.vocab_size != scenes_tokenizer().vocab_size
    for scene in scenes:
        caption = joined_caption(scene, VERSION_2)
        assert len(tokenizer.encode(caption)) <= VERSION_2.context_length - 2
        words_of_captions = set()
        for sentence in itertools.chain.from_iterable(scene.captions.values()):
            words_of_captions.update(sentence.split())
        assert words_of_captions <= set(words("scenes2"))


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_the_scenes_tokenizer_gives_the_tokens_of_openclip(version):
    tokenizer = scenes_tokenizer(40, version)
    openclip_tokenizer = SimpleTokenizer(bpe_path=str(merges_file(version)), context_length=40)
    texts = ["A Red  car.", "unknownword ball", "ball.", "a  ball", "", "it's", "red car. ", ". ."]
    for scene in split_scenes(TRAIN, 20, version=version):
        for sentences in scene.captions.values():
            texts += [*sentences, ". ".join(sentences)]
    expected = [openclip_tokenizer.encode(text) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == expected
    assert torch.equal(tokenizer(texts), openclip_tokenizer(texts))


def test_files_of_questions_hold_the_questions_of_each_scene(tmp_path, scenes):
    root = write_layouts(
        tmp_path / "few", split=TEST, count=3, layouts=["coco", "questions"], version=VERSION_2
    )
    colour_questions = json.loads((root / "questions" / "colour.json").read_text())
    objects = [question["object"] for question in colour_questions.values()]
    assert objects == ["dominant", "small"] * 3
    # The seed of a scene's questions is the number of its image. Its questions about the dominant
    # thing are about the kind, the colour and the place, in this order.
    question = questions_of(scenes[0], seed=1)[1]
    assert colour_questions["0"] == {
        "filename": "000000000001.jpg",
        "caption": question.caption,
        "negative_caption": question.false_caption,
        "object": "dominant",
        "word": "colour",
        "area": question.area,
        "dominant_area": question.dominant_area,
    }
    with pytest.raises(ValueError, match=r"train, test$"):
        split_scenes(TEST_SEEN, 1, version=VERSION_1)
