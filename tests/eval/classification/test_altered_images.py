"""Images that are altered when they are decoded: words on them, corruptions, and their metrics."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support.results import figures_of, metrics_of

from cosmos_eval.data.altered_images import (
    CorruptedImage,
    WrittenImage,
    corrupt_pixels,
    draw_wrong_classes,
    write_word,
)
from cosmos_eval.data.class_names import class_names
from cosmos_eval.data.classification import open_data
from cosmos_eval.data.sources import ImageArray
from cosmos_eval.protocols import find_known, is_embedded, prepare
from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.types import RunOptions, UsageError

# Two classes of ImageNet are called "missile".
NAMES = ("missile", "crane", "missile", "sea lion")
NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def draw_plainly(image: str, label: int) -> int:
    """Draw a wrong class by a second implementation, with hexadecimal digits and lists."""
    wrong_classes = [index for index, name in enumerate(NAMES) if name != NAMES[label]]
    number = int(hashlib.sha256(image.encode()).hexdigest()[:16], 16)
    return wrong_classes[number % len(wrong_classes)]


def test_wrong_classes_are_drawn_only_by_the_name_of_the_image():
    images = [f"n01/{number}.jpg" for number in range(200)]
    labels = np.arange(200) % 4
    wrong_classes = draw_wrong_classes(images, labels, NAMES)
    expected = [draw_plainly(image, label) for image, label in zip(images, labels, strict=True)]
    assert wrong_classes.tolist() == expected
    of_ten_images = draw_wrong_classes(images[50:60], labels[50:60], NAMES)
    assert of_ten_images.tolist() == wrong_classes[50:60].tolist()
    # Every wrong class is drawn, but never the other missile.
    assert set(wrong_classes[labels == 1]) == {0, 2, 3}
    assert not set(wrong_classes[labels == 0]) & {0, 2}
    with pytest.raises(ValueError, match="all classes are called 'a'"):
        draw_wrong_classes(["1"], np.array([0]), ["a", "a"])


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (64, 64)])
def test_a_word_is_white_and_black_in_the_lower_half_of_the_central_square(width, height):
    grey = Image.new("RGB", (width, height), (128, 128, 128))
    side = min(width, height)
    left_edge, top = (width - side) // 2, (height - side) // 2
    for word in ("cat", "a very long name of a class that must become smaller"):
        written = np.asarray(write_word(grey, word))
        rows, columns = np.nonzero((written != 128).any(axis=2))
        # The text is centred in the square; 6 pixels are the smallest letters.
        assert abs((columns.min() + columns.max()) / 2 - width / 2) <= 0.03 * side + 1
        assert abs((rows.min() + rows.max()) / 2 - top - 0.75 * side) <= 0.05 * side + 1
        assert rows.min() >= top + side / 2
        assert rows.max() <= top + side
        if side > 64:
            assert left_edge <= columns.min() < columns.max() <= left_edge + side
        if word == "cat":
            assert written.min() == 0
            assert written.max() >= 250
    assert np.asarray(grey).min() == 128  # the image itself stays as it is
    # Letters of a short word are as high as the protocol says.
    rows = np.nonzero((np.asarray(write_word(grey, "H")) >= 200).all(axis=2))[0]
    assert (np.ptp(rows) + 1) / side == pytest.approx(0.7 / 6, abs=0.03)  # capitals: 0.7 of it


def test_a_written_image_is_another_input_and_decodes_the_same_again():
    image = ImageArray("1.png", NOISE)
    cat, dog = WrittenImage(image, "cat"), WrittenImage(image, "dog")
    assert cat.name == "1.png [written: cat]"
    assert len({cat.read(), dog.read(), image.read()}) == 3
    pixels = [np.asarray(source.decode(source.read())) for source in (cat, cat, dog)]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])
    assert np.array_equal(pixels[0][:10], NOISE[:10])  # above the word


def test_attack_success_and_accuracy_by_hand():
    samples = {
        "labels": np.array([0, 1, 1, 2]),
        "top5": np.array([[0, 1, 2], [0, 1, 2], [0, 2, 1], [1, 0, 2]]),
        "written": np.array([2, 0, 2, 1]),
        "classes": np.array(["a", "b", "c"]),
    }
    metrics = metrics_of("cls", samples)
    assert metrics["acc1"] == 1 / 4
    assert metrics["attack_success"] == 2 / 4
    assert figures_of("cls", samples)["intervals"]["attack_success"]["method"] == "wilson"
    del samples["written"]
    assert "attack_success" not in metrics_of("cls", samples)
    assert not classification.TASK.metric("attack_success").higher_is_better


def test_any_classification_set_can_be_attacked_by_name():
    scenes = find_protocol("scenes-cls-typographic")
    assert (scenes.dataset, scenes.protocol_name) == ("scenes-cls-typographic", "typographic")
    assert is_embedded(scenes)
    assert find_protocol("wds/cars-typographic").repository == "clip-benchmark/wds_cars"
    # Without the errors in the list of names of the protocol `cosmos`.
    assert find_protocol("oxford_pets").class_names
    assert not find_protocol("oxford_pets-typographic").class_names
    for name in ("voc20", "scenes-retrieval", "wds/voc2007_multilabel", "nothing"):
        with pytest.raises(UsageError, match=f"unknown data set '{name}-typographic'; nearest"):
            find_known(f"{name}-typographic")


def test_scenes_with_a_wrong_word(command, tmp_path):
    prepare(find_known("scenes-cls-typographic"))
    clean, attacked = (
        open_data(find_known(name), RunOptions(limit=20))
        for name in ("scenes-cls", "scenes-cls-typographic")
    )
    assert attacked.names == clean.names
    names = class_names(find_known("scenes-cls"), clean)
    for image, source, label in zip(attacked.images, clean.images, clean.labels, strict=True):
        assert image.image == source
        assert image.word in set(names) - {names[label]}
    arguments = ["run", "--dataset", "scenes-cls-typographic", "--model", "scenes-clip"]
    completed = command(*arguments, "--limit", 20, "--output", "runs")
    assert completed.status == 0
    assert "attack success" in completed.out
    assert "1 verified" in command("verify", "runs").out
    completed = command(
        "run", "--dataset", "wds/cars-typographic", "--model", "scenes-clip", "--stream"
    )
    assert completed.status == 2
    assert "wds/cars-typographic alters images: --stream cannot do that" in completed.err


def test_words_have_only_letters_of_the_font(tmp_path, save_colour):
    """Accents are left out. The font would draw other missing letters as empty boxes."""
    for name in ("cafe", "the"):
        save_colour(tmp_path / "images" / name / "1.png", "red")
    path = tmp_path / "own.yaml"
    text = "kind: cls\nfolder: images\ntypographic: true\nclass_names: {{cafe: {}, the: {}}}\n"
    path.write_text(text.format("Café", "Thé"))
    data = classification.TASK.open_data(find_protocol(str(path)), RunOptions())
    assert [image.word for image in data.images] == ["The", "Cafe"]
    path.write_text(text.format("Café", "茶"))
    message = "own: the font has no letter '茶' to write '茶' on images: give `class_names`"
    with pytest.raises(UsageError, match=message):
        classification.TASK.open_data(find_protocol(str(path)), RunOptions())


def test_a_users_set_is_attacked_or_corrupted_by_a_key(tmp_path, save_colour):
    for colour in ("red", "blue"):
        save_colour(tmp_path / "images" / colour / "1.png", colour)
    path = tmp_path / "own.yaml"
    path.write_text("kind: cls\nfolder: images\ntypographic: true\n")
    data = classification.TASK.open_data(find_protocol(str(path)), RunOptions())
    assert [image.word for image in data.images] == ["red", "blue"]  # of blue/1.png and red/1.png
    path.write_text("kind: cls\nfolder: images\ntypographic: true\ncorruption: fog\n")
    with pytest.raises(UsageError, match="own: give only one of `corruption`, `typographic`"):
        classification.TASK.open_data(find_protocol(str(path)), RunOptions())
    path.write_text("kind: cls\nfolder: images\ncorruption: mist\n")
    with pytest.raises(UsageError, match=r"`corruption`.*fog"):
        find_protocol(str(path))


def test_corruptions_are_those_of_the_paper_and_follow_from_the_seed():
    pytest.importorskip("imagecorruptions")
    unit = NOISE / 255
    # make_imagenet_c.py: contrast keeps 0.4, 0.3, 0.2, 0.1 or 0.05 of the distance from the mean.
    mean = unit.mean(axis=(0, 1), keepdims=True)
    for severity, contrast in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), start=1):
        expected = np.clip((unit - mean) * contrast + mean, 0, 1) * 255
        assert np.array_equal(corrupt_pixels(NOISE, "contrast", severity, 0), np.uint8(expected))
    # Gaussian noise of severity 3 has a standard deviation of 0.18.
    noise = np.random.RandomState(5).normal(size=unit.shape, scale=0.18)
    expected = np.uint8(np.clip(unit + noise, 0, 1) * 255)
    np.random.seed(7)
    state_before = np.random.get_state()[1].copy()
    assert np.array_equal(corrupt_pixels(NOISE, "gaussian_noise", 3, 5), expected)
    assert np.array_equal(np.random.get_state()[1], state_before)
    for corruption in ("impulse_noise", "glass_blur", "fog", "frost", "elastic_transform"):
        pixels = corrupt_pixels(NOISE, corruption, 2, 1)
        assert np.array_equal(pixels, corrupt_pixels(NOISE, corruption, 2, 1))
        assert not np.array_equal(pixels, corrupt_pixels(NOISE, corruption, 2, 2))


def test_threads_corrupt_an_image_as_one_thread_does():
    pytest.importorskip("imagecorruptions")
    sources = [
        CorruptedImage(ImageArray(f"{n}.png", NOISE + np.uint8(n)), "shot_noise", severity)
        for n in range(4)
        for severity in (1, 5)
    ]
    assert sources[1].name == "0.png [shot_noise 5]"

    def decode(source: CorruptedImage) -> bytes:
        image = source.decode(source.read())
        assert image.size == (224, 224)
        return image.tobytes()

    alone = [decode(source) for source in sources]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decode, sources)) == alone
    # Another name does not change the pixels, and another image or severity does.
    renamed = CorruptedImage(ImageArray("other.png", NOISE), "shot_noise", 1)
    assert decode(renamed) == alone[0]
    assert len(set(alone)) == 8
