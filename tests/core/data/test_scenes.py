"""Version 1 of the rendered scenes: images, label maps, captions and vocabulary.

Each is checked against another source: captions against the records of the things in a scene,
label maps against those records and against the pixels, and the vocabulary against OpenCLIP.
"""

import gzip
import hashlib
import itertools
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
def scenes():
    """The first hundred scenes of the test split: ten of each of the ten labels."""
    return list(split_scenes(TEST, 100))


def digest(scene):
    """Return a checksum of a scene's image, label map and captions."""
    arrays = scene.image.tobytes() + scene.label_map.tobytes()
    return hashlib.sha256(arrays + repr(scene.captions).encode()).hexdigest()


# --- images and label maps


def test_a_scene_has_the_promised_shapes(scenes):
    assert np.bincount([scene.label for scene in scenes]).tolist() == [10] * 10
    for scene in scenes:
        assert scene.image.shape == (128, 128, 3)
        assert scene.image.dtype == np.uint8
        assert scene.label_map.shape == (128, 128)
        assert scene.label_map.dtype == np.uint8
        assert 2 <= len(scene.things) - 1 <= 4
        assert [thing.size for thing in scene.things[1:]] == ["small"] * (len(scene.things) - 1)


def test_another_process_draws_the_same_scenes_in_another_order():
    indices = [11, 3, 3, 7]
    program = (
        "import hashlib\n"
        "from cosmos_core.data.scenes.scene import render_scene\n"
        f"for index in {indices}:\n"
        "    scene = render_scene(5, index)\n"
        "    arrays = scene.image.tobytes() + scene.label_map.tobytes()\n"
        "    print(hashlib.sha256(arrays + repr(scene.captions).encode()).hexdigest())\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    digests = {index: digest(render_scene(5, index)) for index in sorted(indices)}
    assert run.stdout.split() == [digests[index] for index in indices]


def test_the_splits_share_no_scene():
    train = [digest(scene) for scene in split_scenes(TRAIN, 50)]
    test = [digest(scene) for scene in split_scenes(TEST, 50)]
    assert len({*train, *test}) == 100
    (scene_3,) = split_scenes(TEST, 1, start=3)
    assert digest(scene_3) == test[3]


def test_the_label_map_agrees_with_the_records(scenes):
    for scene in scenes:
        recorded_kinds = {element.kind for element in (*scene.things, *scene.stuff)}
        assert {CLASSES[index] for index in np.unique(scene.label_map)} == recorded_kinds
        for kind in {thing.kind for thing in scene.things}:
            things_of_kind = [thing for thing in scene.things if thing.kind == kind]
            ys, xs = np.nonzero(scene.label_map == CLASSES.index(kind))
            boxes = np.array([thing.box for thing in things_of_kind])
            assert (xs.min(), ys.min()) == tuple(boxes[:, :2].min(0))
            assert (xs.max() + 1, ys.max() + 1) == tuple(boxes[:, 2:].max(0))
            assert len(xs) / 128**2 == pytest.approx(sum(thing.area for thing in things_of_kind))


def test_the_label_map_follows_the_outline_in_the_image():
    # The outline of a thing is nearly black: just inside its border pixels are darker than
    # just outside, where a light rim surrounds it.
    import cv2

    inside, outside = [], []
    for scene in split_scenes(TEST, 40):
        mask = (scene.label_map == scene.label).astype(np.uint8)
        grey = scene.image.mean(2)
        kernel = np.ones((3, 3), np.uint8)
        inner_border = mask - cv2.erode(mask, kernel) > 0
        outer_border = cv2.dilate(mask, kernel) - mask > 0
        inside.append(grey[inner_border].mean())
        outside.append(grey[outer_border].mean())
    assert np.mean(inside) + 20 < np.mean(outside)


def test_the_dominant_thing_dominates_and_small_things_stay_visible(scenes):
    for scene in scenes:
        dominant, *small_things = scene.things
        small_areas = [thing.area for thing in small_things]
        assert dominant.kind == THINGS[scene.label]
        assert dominant.size == "large"
        assert dominant.area > 1.3 * max(small_areas)
        assert min(small_areas) > 0.005
        assert all(thing.kind != dominant.kind for thing in small_things)


def test_every_colour_belongs_to_several_kinds_of_things():
    for colour in PALETTE:
        assert sum(colour in colours for colours in COLOURS.values()) >= 2


def test_the_pixels_of_a_thing_have_the_colour_of_its_record():
    import cv2

    # OpenCV's hues, which are numbers from 0 to 179.
    hues = {"red": 0, "yellow": 25, "green": 59, "blue": 110, "purple": 140}
    for scene in split_scenes(TEST, 80):
        thing = scene.things[0]
        # Balls, boats and houses have large parts of other colours.
        if thing.colour not in hues or thing.kind in ("ball", "boat", "house"):
            continue
        hsv_image = cv2.cvtColor(scene.image, cv2.COLOR_RGB2HSV)
        hue, saturation, value = hsv_image[scene.label_map == scene.label].T
        vivid_hues = hue[(saturation > 90) & (value > 70)].astype(int)
        # Hues are on a circle of 180: the difference of 1 and 179 is 2.
        differences = np.abs((vivid_hues - hues[thing.colour] + 90) % 180 - 90)
        assert np.mean(differences < 16) > 0.35, (thing, np.median(vivid_hues))


def test_places_are_thirds_of_the_image_and_relations_are_between_centres():
    # Boxes are (x0, y0, x1, y1) in an image of 128 x 128 pixels.
    assert place_of((0, 0, 30, 30)) == "upper left"
    assert place_of((50, 0, 78, 20)) == "top"
    assert place_of((100, 54, 128, 74)) == "right"
    assert place_of((44, 44, 84, 84)) == "center"
    assert place_of((0, 100, 20, 128)) == "lower left"
    assert place_of((54, 108, 74, 128)) == "bottom"
    center = (54, 54, 74, 74)
    assert relation_of((0, 50, 20, 70), center) == "left of"
    assert relation_of((50, 100, 70, 120), center) == "below"
    assert relation_of((50, 50, 70, 70), center) is None


# --- captions


def long_sentences(scene):
    """Return the sentences of a scene's long captions by all captioners."""
    sentences = []
    for captioner in STYLES:
        sentences += scene.captions[f"long{captioner}_captions"]
    return sentences


def every_sentence(scene):
    return list(itertools.chain.from_iterable(scene.captions.values()))


def words_of(sentence):
    return set(sentence.split())


def test_captions_have_dreamlips_keys_and_no_full_stop(scenes):
    dreamlip_keys = {
        "raw_caption",
        *("shortIB_captions", "shortSV_captions", "shortLLA_captions"),
        *("longIB_captions", "longSV_captions", "longLLA_captions"),
    }
    for scene in scenes:
        assert set(scene.captions) == dreamlip_keys
        for key, sentences in scene.captions.items():
            fewest, most = (4, 7) if key.startswith("long") else (1, 1)
            assert fewest <= len(sentences) <= most
        for sentence in every_sentence(scene):
            assert sentence == sentence.lower()
            assert "." not in sentence
            assert len(sentence.split()) <= 11


def test_the_raw_caption_names_the_dominant_thing_only(scenes):
    for scene in scenes:
        (raw_caption,) = scene.captions["raw_caption"]
        named_kinds = words_of(raw_caption) & set(CLASSES)
        assert named_kinds == {THINGS[scene.label]}


def test_no_sentence_says_anything_false(scenes):
    for scene in scenes:
        kinds = {element.kind for element in (*scene.things, *scene.stuff)}
        for sentence in every_sentence(scene):
            assert words_of(sentence) & set(CLASSES) <= kinds, sentence
            check_adjectives(scene, sentence)


def check_adjectives(scene, sentence):
    """Check that the words right before a thing's name are its colour and its size."""
    words = sentence.split()
    for position, word in enumerate(words):
        if word not in THINGS:
            continue
        adjectives = set(words[max(0, position - 2) : position])
        colours = adjectives & set(PALETTE)
        said_small = bool(adjectives & {"small", "tiny", "little"})
        said_large = bool(adjectives & {"large", "big"})
        assert any(
            thing.kind == word
            and colours <= {thing.colour}
            and not (said_small and thing.size != "small")
            and not (said_large and thing.size != "large")
            for thing in scene.things
        ), sentence


def test_a_long_sentence_is_about_one_element_and_right_about_its_place(scenes):
    for scene in scenes:
        for sentence in long_sentences(scene):
            thing_kinds = words_of(sentence) & set(THINGS)
            stuff_kinds = words_of(sentence) & set(CLASSES) - thing_kinds
            if stuff_kinds:
                assert len(stuff_kinds) == 1
                assert not thing_kinds
                assert_stuff_place(scene, stuff_kinds.pop(), sentence)
            elif len(thing_kinds) == 1:
                assert_thing_place(scene, thing_kinds.pop(), sentence)
            else:
                assert_relation(scene, thing_kinds, sentence)


def assert_thing_place(scene, kind, sentence):
    """Check that the place in a sentence, if it names one, is that of a thing of the scene."""
    place_words = {"upper", "lower", "left", "right", "top", "bottom", "center"}
    stated_place = place_words & words_of(sentence)
    stated_colours = words_of(sentence) & set(PALETTE)
    assert not stated_place or any(
        set(thing.place.split()) == stated_place and stated_colours <= {thing.colour}
        for thing in scene.things
        if thing.kind == kind
    ), sentence


def assert_stuff_place(scene, kind, sentence):
    """Check that the mean of the stuff's pixels is in the stated half of the image."""
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
    """Check the stated direction from the dominant thing to a small one, by their centres."""
    dominant = scene.things[0]
    (small_kind,) = kinds - {dominant.kind}
    # Direction -> axis of the image (0 for x, 1 for y), and the sign of the difference along it.
    directions = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
    stated = next(word for word in directions if word in words_of(sentence))
    axis, sign = directions[stated]

    def centre(thing):
        return (thing.box[axis] + thing.box[axis + 2]) / 2

    small_things = [thing for thing in scene.things if thing.kind == small_kind]
    distances = [sign * (centre(thing) - centre(dominant)) for thing in small_things]
    assert max(distances) > 10, sentence


def test_most_small_things_have_sentences_of_their_own(scenes):
    described = total = 0
    for scene in scenes:
        kinds_by_sentence = [words_of(text) & set(THINGS) for text in long_sentences(scene)]
        for thing in scene.things[1:]:
            total += 1
            described += {thing.kind} in kinds_by_sentence
    assert described / total > 0.98


def test_joined_captions_of_hundreds_of_scenes_differ():
    captions = {joined_caption(scene) for scene in split_scenes(TEST, 300)}
    assert len(captions) == 300


# --- vocabulary


def test_every_word_is_one_token(scenes):
    tokenizer = vocabulary.scenes_tokenizer()
    assert all(len(tokenizer.encode(word)) == 1 for word in vocabulary.words())
    words_of_captions = set()
    for scene in scenes:
        for sentence in every_sentence(scene):
            words_of_captions |= words_of(sentence)
    assert words_of_captions <= set(vocabulary.words())
    assert len(vocabulary.words()) < 200
    assert len(set(tokenizer.encoder.values())) == len(tokenizer.encoder)


def test_words_of_openais_prompt_templates_are_one_token_each():
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    tokenizer = vocabulary.scenes_tokenizer()
    prompts = [template("apple") for template in OPENAI_IMAGENET_TEMPLATES]
    for text in [*prompts, "there is a tree in the scene", "a picture of the brick."]:
        assert len(tokenizer.encode(text)) == len(tokenizer.pat.findall(text)), text


def number_of_words(sentence):
    return len(sentence.split())


def test_five_sentences_and_joined_captions_fit_the_context(scenes):
    tokenizer = vocabulary.scenes_tokenizer()
    for scene in scenes:
        longest_five = sorted(every_sentence(scene), key=number_of_words, reverse=True)[:5]
        for text in (". ".join(longest_five), *image_captions(scene)):
            # Two more: the start and the end token.
            assert len(tokenizer.encode(text)) + 2 <= vocabulary.CONTEXT_LENGTH
        assert joined_caption(scene) == ". ".join(scene.captions["longIB_captions"])


def test_the_bundled_merges_are_the_ones_that_the_code_writes(tmp_path):
    vocabulary.write_merges(tmp_path / "a.gz")
    vocabulary.write_merges(tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    # Compressed bytes differ between versions of zlib; what they hold does not.
    bundled = gzip.decompress(vocabulary.MERGES_FILE.read_bytes())
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == bundled
