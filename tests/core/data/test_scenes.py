"""The embedded scenes: pictures, captions and vocabulary, against independent views."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cosmos_core.data.scenes import CLASSES, COLOURS, PALETTE, TEST, THINGS, TRAIN, vocabulary
from cosmos_core.data.scenes.captions import STYLES, place_of, relation_of
from cosmos_core.data.scenes.layouts import image_captions, joined_caption
from cosmos_core.data.scenes.scene import render_scene, split_scenes


@pytest.fixture(scope="module")
def some():
    return list(split_scenes(TEST, 100))


def digest(scene):
    parts = (scene.image.tobytes(), scene.label_map.tobytes(), repr(scene.captions).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()


# --- pictures


def test_a_scene_has_the_promised_shapes(some):
    assert np.bincount([scene.label for scene in some]).tolist() == [10] * 10
    for scene in some:
        assert scene.image.shape == (128, 128, 3)
        assert scene.image.dtype == np.uint8
        assert scene.label_map.shape == (128, 128)
        assert scene.label_map.dtype == np.uint8
        assert 2 <= len(scene.things) - 1 <= 4
        assert [thing.size for thing in scene.things[1:]] == ["small"] * (len(scene.things) - 1)


def test_another_process_draws_the_same_scenes_in_another_order():
    indices = [11, 3, 3, 7]
    program = (
        "from cosmos_core.data.scenes.scene import render_scene as r; import hashlib\n"
        f"for i in {indices}:\n"
        "    s = r(5, i)\n"
        "    parts = s.image.tobytes(), s.label_map.tobytes(), repr(s.captions).encode()\n"
        "    print(hashlib.sha256(b''.join(parts)).hexdigest())\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    here = {i: digest(render_scene(5, i)) for i in sorted(indices)}
    assert run.stdout.split() == [here[i] for i in indices]


def test_the_splits_share_no_scene():
    train, test = ([*map(digest, split_scenes(split, 50))] for split in (TRAIN, TEST))
    assert len({*train, *test}) == 100
    (third,) = split_scenes(TEST, 1, start=3)
    assert digest(third) == test[3]


def test_the_label_map_agrees_with_the_records(some):
    for scene in some:
        named = {thing.kind for thing in scene.things} | {stuff.kind for stuff in scene.stuff}
        assert {CLASSES[i] for i in np.unique(scene.label_map)} == named
        for kind in {thing.kind for thing in scene.things}:
            same = [thing for thing in scene.things if thing.kind == kind]
            ys, xs = np.nonzero(scene.label_map == CLASSES.index(kind))
            boxes = np.array([thing.box for thing in same])
            assert (xs.min(), ys.min()) == tuple(boxes[:, :2].min(0))
            assert (xs.max() + 1, ys.max() + 1) == tuple(boxes[:, 2:].max(0))
            assert len(xs) / 128**2 == pytest.approx(sum(thing.area for thing in same))


def test_the_label_map_follows_the_picture():
    # The outline of a thing is nearly black: just inside its border pixels are darker than
    # just outside, where a light rim surrounds it.
    import cv2

    inside, outside = [], []
    for scene in split_scenes(TEST, 40):
        mask = (scene.label_map == scene.label).astype(np.uint8)
        grey = scene.image.mean(2)
        kernel = np.ones((3, 3), np.uint8)
        inside.append(grey[(mask - cv2.erode(mask, kernel)) > 0].mean())
        outside.append(grey[(cv2.dilate(mask, kernel) - mask) > 0].mean())
    assert np.mean(inside) + 20 < np.mean(outside)


def test_the_dominant_thing_dominates_and_small_things_stay_visible(some):
    for scene in some:
        areas = [thing.area for thing in scene.things]
        assert scene.things[0].kind == THINGS[scene.label]
        assert scene.things[0].size == "large"
        assert areas[0] > 1.3 * max(areas[1:])
        assert min(areas[1:]) > 0.005
        assert all(thing.kind != scene.things[0].kind for thing in scene.things[1:])


def test_colour_alone_does_not_name_a_class():
    for colour in PALETTE:
        assert sum(colour in known for known in COLOURS.values()) >= 2


def test_things_have_the_colour_that_is_said():
    # In hue, out of 180: a saturated red thing is red, a blue one blue.
    import cv2

    hues = {"red": 0, "yellow": 25, "green": 59, "blue": 110, "purple": 140}
    for scene in split_scenes(TEST, 80):
        thing = scene.things[0]
        if thing.colour not in hues or thing.kind in ("ball", "boat", "house"):
            continue
        hsv = cv2.cvtColor(scene.image, cv2.COLOR_RGB2HSV)[scene.label_map == scene.label]
        vivid = hsv[(hsv[:, 1] > 90) & (hsv[:, 2] > 70), 0].astype(int)
        apart = np.abs((vivid - hues[thing.colour] + 90) % 180 - 90)
        assert np.mean(apart < 16) > 0.35, (thing, np.median(vivid))


def test_places_are_thirds_of_the_picture_and_relations_are_between_centres():
    assert place_of((0, 0, 30, 30)) == "upper left"
    assert place_of((50, 0, 78, 20)) == "top"
    assert place_of((100, 54, 128, 74)) == "right"
    assert place_of((44, 44, 84, 84)) == "center"
    assert place_of((0, 100, 20, 128)) == "lower left"
    assert place_of((54, 108, 74, 128)) == "bottom"
    middle = (54, 54, 74, 74)
    assert relation_of((0, 50, 20, 70), middle) == "left of"
    assert relation_of((50, 100, 70, 120), middle) == "below"
    assert relation_of((50, 50, 70, 70), middle) is None


# --- captions


def long_sentences(scene):
    return [s for name in STYLES for s in scene.captions[f"long{name}_captions"]]


def every_sentence(scene):
    return [s for sentences in scene.captions.values() for s in sentences]


def words_of(sentence):
    return set(sentence.split())


def test_captions_have_dreamlips_keys_and_no_full_stop(some):
    expected = {"raw_caption"} | {
        f"{length}{name}_captions" for length in ("short", "long") for name in ("IB", "SV", "LLA")
    }
    for scene in some:
        assert set(scene.captions) == expected
        for key, sentences in scene.captions.items():
            low, high = (4, 7) if key.startswith("long") else (1, 1)
            assert low <= len(sentences) <= high
        for sentence in every_sentence(scene):
            assert sentence == sentence.lower()
            assert "." not in sentence
            assert len(sentence.split()) <= 11


def test_the_raw_caption_names_the_dominant_thing_only(some):
    for scene in some:
        (raw,) = scene.captions["raw_caption"]
        named = words_of(raw) & set(CLASSES)
        assert named == {THINGS[scene.label]}


def test_no_sentence_says_anything_false(some):
    for scene in some:
        present = {t.kind for t in scene.things} | {s.kind for s in scene.stuff}
        for sentence in every_sentence(scene):
            assert words_of(sentence) & set(CLASSES) <= present, sentence
            check_adjectives(scene, sentence)


def check_adjectives(scene, sentence):
    """The words right before a thing's name are its colour and its size."""
    split = sentence.split()
    for at, word in enumerate(split):
        if word not in THINGS:
            continue
        before = split[max(0, at - 2) : at]
        colours = set(before) & set(PALETTE)
        small = bool(set(before) & {"small", "tiny", "little"})
        large = bool(set(before) & {"large", "big"})
        assert any(
            thing.kind == word
            and colours <= {thing.colour}
            and not (small and thing.size != "small")
            and not (large and thing.size != "large")
            for thing in scene.things
        ), sentence


def test_a_long_sentence_is_about_one_element_and_right_about_its_place(some):
    for scene in some:
        for sentence in long_sentences(scene):
            things = words_of(sentence) & set(THINGS)
            stuff = words_of(sentence) & set(CLASSES) - things
            if stuff:
                assert len(stuff) == 1
                assert not things
                assert_stuff_place(scene, stuff.pop(), sentence)
            elif len(things) == 1:
                assert_thing_place(scene, things.pop(), sentence)
            else:
                assert_relation(scene, things, sentence)


def assert_thing_place(scene, kind, sentence):
    places = {"upper", "lower", "left", "right", "top", "bottom", "center"}
    stated = places & words_of(sentence)
    colours = words_of(sentence) & set(PALETTE)
    assert not stated or any(
        set(thing.place.split()) == stated and colours <= {thing.colour}
        for thing in scene.things
        if thing.kind == kind
    ), sentence


def assert_stuff_place(scene, kind, sentence):
    ys, xs = np.nonzero(scene.label_map == CLASSES.index(kind))
    if "left" in sentence:
        assert xs.mean() < 64
    if "right" in sentence:
        assert xs.mean() > 64
    if {"ground", "lower", "below"} & words_of(sentence):
        assert ys.mean() > 64
    if {"background", "upper", "above", "behind"} & words_of(sentence):
        assert ys.mean() < 64


def assert_relation(scene, kinds, sentence):
    dominant = scene.things[0]
    (other,) = kinds - {dominant.kind}
    stated = next(w for w in ("left", "right", "above", "below") if w in words_of(sentence))
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[stated]

    def centre(thing):
        return (thing.box[axis] + thing.box[axis + 2]) / 2

    gaps = [sign * (centre(t) - centre(dominant)) for t in scene.things if t.kind == other]
    assert max(gaps) > 10, sentence


def test_most_small_things_have_sentences_of_their_own(some):
    described = total = 0
    for scene in some:
        alone = [words_of(s) & set(THINGS) for s in long_sentences(scene)]
        for thing in scene.things[1:]:
            total += 1
            described += {thing.kind} in alone
    assert described / total > 0.98


def test_joined_captions_tell_hundreds_of_scenes_apart():
    joined = {joined_caption(s) for s in split_scenes(TEST, 300)}
    assert len(joined) == 300


# --- vocabulary


def test_every_word_is_one_token(some):
    tokenizer = vocabulary.scenes_tokenizer()
    assert all(len(tokenizer.encode(word)) == 1 for word in vocabulary.words())
    stated = {word for scene in some for s in every_sentence(scene) for word in s.split()}
    assert stated <= set(vocabulary.words())
    assert len(vocabulary.words()) < 200
    assert len(set(tokenizer.encoder.values())) == len(tokenizer.encoder)


def test_words_of_usual_prompts_are_one_token_each():
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    tokenizer = vocabulary.scenes_tokenizer()
    prompts = [template("apple") for template in OPENAI_IMAGENET_TEMPLATES]
    for text in [*prompts, "there is a tree in the scene", "a picture of the brick."]:
        assert len(tokenizer.encode(text)) == len(tokenizer.pat.findall(text)), text


def test_five_sentences_and_joined_captions_fit_the_context(some):
    tokenizer = vocabulary.scenes_tokenizer()
    for scene in some:
        long = sorted(every_sentence(scene), key=lambda s: -len(s.split()))[:5]
        for text in (". ".join(long), *image_captions(scene)):
            assert len(tokenizer.encode(text)) + 2 <= vocabulary.CONTEXT_LENGTH
        assert joined_caption(scene) == ". ".join(scene.captions["longIB_captions"])


def test_the_shipped_merges_are_the_ones_the_code_makes(tmp_path):
    vocabulary.write_merges(tmp_path / "a.gz")
    vocabulary.write_merges(tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    # Compressed bytes differ between versions of zlib; what they hold does not.
    shipped = gzip.decompress(vocabulary.MERGES_FILE.read_bytes())
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == shipped
