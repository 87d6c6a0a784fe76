"""Label maps of a gallery: their colours, and that saved ones are the ones that were measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.galleries import (
    all_of_class_0,
    gallery,
    measure,
    pixels,
    without_content_hashes,
)
from support.models import store

from cosmos_eval.data.label_maps import open_data
from cosmos_eval.reporting.gallery.records import Gallery, SegmentationExample
from cosmos_eval.results.store import result_paths
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import RunOptions

PARITY = Path(__file__).parents[2] / "parity"
NAMES = ("one", "two", "three", "four")
CLASSES = ("wall", "cat", "dog")
# As published with PASCAL VOC's development kit: its colour map's first entries.
VOC = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128)}


def write_pets(folder: Path) -> Path:
    """Write four images with label maps of three classes and some ignored pixels."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
        image = cv2.resize(coarse, (60, 48), interpolation=cv2.INTER_CUBIC)
        label = np.kron(rng.integers(0, 3, (4, 5)), np.ones((12, 12))).astype(np.uint8)
        label[:6] = 255
        for kind, content in (("images", image), ("masks", label)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(content).save(folder / kind / f"{name}.png")
    description = folder / "pets.yaml"
    description.write_text(
        "kind: seg\nimages: images\nmasks: masks\nimage_suffix: .png\n"
        f"classes: [{', '.join(CLASSES)}]\n"
        "short_side: 48\nwindow: 32\nstride: 16\ntemplates: ['a {}']\n"
    )
    return description


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_archs: dict[str, str]) -> Path:
    """Return a folder of the pets, the result of the model on them, and its saved label maps."""
    folder = tmp_path_factory.mktemp("pets")
    model = f"openclip:{tiny_archs['tiny']}/random"
    saved = str(folder / "saved")
    measure(folder / "results", model, write_pets(folder), save_predictions=saved)
    return folder


@pytest.fixture(scope="module")
def predicted_gallery(measured: Path) -> Gallery:
    """Return the gallery for which the model predicts again, without the saved label maps."""
    return gallery(result_paths(measured / "results"), measured / "pets.yaml")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_pets(tmp_path)


@pytest.fixture
def paths(pets: Path, measured: Path, tmp_path: Path) -> list[Path]:
    """Copy the result and the label maps to the test's folder; return the paths of the results."""
    for name in ("results", "saved"):
        shutil.copytree(measured / name, tmp_path / name)
    return result_paths(tmp_path / "results")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def classes_of(example: SegmentationExample, picture) -> np.ndarray:
    """Return the classes (H, W) of a drawn map by its legend, 255 where it is transparent."""
    rgba = pixels(picture).astype(int)
    is_opaque = rgba[..., 3] == 255
    classes = np.full(rgba.shape[:2], 255)
    for name, colour in example.legend.items():
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]  # of "#rrggbb"
        has_colour = (rgba[..., :3] == rgb).all(-1)
        classes[has_colour & is_opaque] = CLASSES.index(name)
    return classes


def test_drawn_maps_are_those_on_the_disk(predicted_gallery, measured, model) -> None:
    """The truth is that of the set, predictions are those of `--save-predictions`. These images
    are so small that no map is resized."""
    assert predicted_gallery.notes == ()
    assert len(predicted_gallery.segmentation) == 3
    for example in predicted_gallery.segmentation:
        assert (example.dataset, example.protocol) == ("pets", "user")
        truth = read(measured / "masks" / f"{example.name}.png")
        np.testing.assert_array_equal(classes_of(example, example.truth), truth)
        (folder,) = (measured / "saved").iterdir()
        predicted = read(folder / "pets__user" / f"{example.name}.png")
        ((label, picture),) = example.predictions.items()
        assert label == f"{model} (random weights)"
        np.testing.assert_array_equal(classes_of(example, picture), predicted)
        present = {*np.unique(truth[truth < 255]), *np.unique(predicted)}
        assert list(example.legend) == [CLASSES[number] for number in sorted(present)]
        image = read(measured / "images" / f"{example.name}.png").astype(int)
        assert np.abs(pixels(example.image, "RGB") - image).mean() < 8


def test_saved_maps_are_shown_without_the_model(pets, model, checkpoint, tmp_path) -> None:
    spec, saved = model.replace("random", str(checkpoint)), tmp_path / "saved"
    paths = measure(tmp_path / "results", spec, pets, save_predictions=str(saved))
    by_model = gallery(paths, pets)
    checkpoint.unlink()
    by_neither = gallery(paths, pets)
    assert [dict(example.predictions) for example in by_neither.segmentation] == [{}, {}, {}]
    (note,) = by_neither.notes
    assert note.startswith(f"{spec}: no label maps on pets (user), no attention maps on pets: ")
    assert note.endswith(
        "; `cosmos-eval run --save-predictions DIR` keeps label maps for --predictions DIR"
    )
    by_saved_maps = gallery(paths, pets, predictions=saved)
    assert by_saved_maps.segmentation == by_model.segmentation
    assert all("label maps" not in note for note in by_saved_maps.notes)


def test_every_form_of_attention_has_its_own_saved_maps(
    predicted_gallery, paths, pets, model, tmp_path
) -> None:
    saved = tmp_path / "saved"
    maskclip_paths = measure(
        tmp_path / "maskclip", model, pets, save_predictions=str(saved), attention="maskclip"
    )
    (folder_of_model,) = saved.iterdir()
    folders = {folder.name for folder in folder_of_model.iterdir()}
    assert folders == {"pets__user", "pets__user__maskclip"}
    maskclip_gallery = gallery(maskclip_paths, pets)
    for results, expected in ((paths, predicted_gallery), (maskclip_paths, maskclip_gallery)):
        examples = gallery(results, pets, predictions=saved)
        assert examples.segmentation == expected.segmentation
        assert examples.notes == ()


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def save_in_colour(path: Path) -> None:
    Image.new("RGB", (60, 48)).save(path)


def save_smaller(path: Path) -> None:
    Image.new("P", (6, 4)).save(path)


def save_an_unknown_class(path: Path) -> None:
    Image.new("P", (60, 48), 9).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_the_end, "cannot read the saved label map"),
        (save_in_colour, "is not a saved label map: its mode"),
        (save_smaller, "not the label maps that"),
        (save_an_unknown_class, "not the label maps that"),
    ],
)
def test_damaged_saved_maps_are_noted_and_predicted_again(
    damage: Callable[[Path], None], message: str, predicted_gallery, paths, pets, tmp_path
) -> None:
    for path in (tmp_path / "saved").rglob("*.png"):
        damage(path)
    examples = gallery(paths, pets, predictions=tmp_path / "saved")
    assert examples.segmentation == predicted_gallery.segmentation
    assert examples.notes
    assert all(message in note for note in examples.notes)


def test_every_result_is_shown_with_its_form_of_attention(pets, model, tmp_path) -> None:
    results, saved = tmp_path / "results", tmp_path / "saved"
    measure(results, model, pets)
    paths = measure(results, model, pets, attention="vanilla", save_predictions=str(saved))
    examples = gallery(paths, pets)
    assert examples.notes == ()
    labels = [f"{model} (random weights)", f"{model} (random weights, vanilla)"]
    n_different = 0
    for example in examples.segmentation:
        assert list(example.predictions) == labels
        default, vanilla = example.predictions.values()
        n_different += default != vanilla
        (folder,) = saved.iterdir()
        predicted = read(folder / "pets__user__vanilla" / f"{example.name}.png")
        np.testing.assert_array_equal(classes_of(example, vanilla), predicted)
    assert n_different
    # The attention map is that of the model, however its segmentation was measured.
    (models_with_maps,) = {tuple(example.maps) for example in examples.attention}
    assert models_with_maps == (labels[0],)


def replace_label_maps(folder: Path) -> None:
    """Give each pixel the next class."""
    for path in folder.iterdir():
        truth = read(path)
        next_class = np.where(truth == 255, 255, (truth + 1) % len(CLASSES))
        Image.fromarray(next_class.astype(np.uint8)).save(path)


def replace_an_image(folder: Path) -> None:
    """Replace one of the images by a grey one."""
    Image.new("RGB", (60, 48), "grey").save(folder / "two.png")


@pytest.mark.parametrize(
    ("folder", "replace_files"), [("masks", replace_label_maps), ("images", replace_an_image)]
)
def test_a_set_with_other_files_of_the_same_names_is_not_shown(
    folder, replace_files, paths, pets, model, tmp_path
) -> None:
    replace_files(tmp_path / folder)
    examples = gallery(paths, pets)
    assert (examples.segmentation, examples.attention) == ((), ())
    assert examples.notes == (
        f"pets (user): no pictures of {model} (random weights): measured on other images, labels, "
        "captions or classes than are there now",
    )


def test_a_result_with_a_limit_is_shown_if_its_images_are_unchanged(pets, model, tmp_path) -> None:
    """The names are sorted: four, one, three, two."""
    paths = measure(tmp_path / "limited", model, pets, limit=3)
    (tmp_path / "images" / "two.png").write_bytes(b"another image")
    assert len(gallery(paths, pets).segmentation) == 3
    (tmp_path / "images" / "three.png").write_bytes(b"another image")
    assert gallery(paths, pets).segmentation == ()


def test_predictions_that_do_not_give_the_measured_counts_are_not_shown(
    paths, pets, model, tmp_path
) -> None:
    """The result has no hash of the files, so only the counts tell."""
    replace_label_maps(tmp_path / "masks")
    examples = gallery(without_content_hashes(paths, tmp_path / "older"), pets)
    assert [dict(example.predictions) for example in examples.segmentation] == [{}, {}, {}]
    assert examples.notes == (
        f"pets (user): label maps of {model} (random weights) are not shown, as they come out "
        "otherwise than measured",
    )


def test_a_set_with_unmeasured_images_is_not_shown(paths, pets, tmp_path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(tmp_path / folder / "one.png", tmp_path / folder / "another.png")
    examples = gallery(paths, pets)
    assert examples.segmentation == ()
    assert examples.notes[0].startswith("pets (user): no pictures of ")


def test_damaged_images_and_label_maps_are_noted(predicted_gallery, paths, pets, tmp_path) -> None:
    without_mask, without_image, undamaged = (
        example.name for example in predicted_gallery.segmentation
    )
    (tmp_path / "masks" / f"{without_mask}.png").write_bytes(b"no image")
    (tmp_path / "images" / f"{without_image}.png").write_bytes(b"no image")
    examples = gallery(without_content_hashes(paths, tmp_path / "older"), pets)
    assert [example.name for example in examples.segmentation] == [undamaged]
    assert any(f"masks/{without_mask}.png" in note for note in examples.notes)
    assert any(f"images/{without_image}.png" in note for note in examples.notes)


def test_attention_without_captions_is_that_of_the_smallest_class(
    predicted_gallery, measured
) -> None:
    """A class counts if it has at least a hundredth of the pixels, here 28.8."""
    assert len(predicted_gallery.attention) == 3
    for example in predicted_gallery.attention:
        truth = read(measured / "masks" / f"{example.name}.png")
        counts = np.bincount(truth.ravel(), minlength=256)[: len(CLASSES)]
        _, smallest_class = min((count, i) for i, count in enumerate(counts) if count > 28)
        assert example.caption == f"a photo of a {CLASSES[smallest_class]}."


def test_voc_is_drawn_in_its_published_colours(tmp_path) -> None:
    """Its label maps are drawn without a model or its predictions."""
    root = PARITY / "voc"
    protocol = find_protocol("voc21")
    data = open_data(protocol, RunOptions(data_root=str(root), allow_partial=True))
    samples = all_of_class_0([sample.name for sample in data.samples], protocol)
    path = store(
        tmp_path,
        "seg",
        dataset="voc21",
        protocol="cosmos",
        samples=samples,
        model={"spec": "cosmos:gone.pt"},
        hashes={"content": ""},
    )
    examples = gallery([path], data_root=str(root))
    assert len(examples.segmentation) == 3
    checked_classes = set()
    for example in examples.segmentation:
        truth = read(root / "SegmentationClass" / f"{example.name}.png")
        picture = pixels(example.truth)
        assert max(picture.shape[:2]) <= 320
        # The label in the middle of every pixel of the smaller picture.
        rows, columns = (
            ((np.arange(drawn_length) + 0.5) * length / drawn_length).astype(int)
            for drawn_length, length in zip(picture.shape[:2], truth.shape, strict=True)
        )
        labels = truth[np.ix_(rows, columns)]
        for label in np.unique(labels):
            (rgba,) = {tuple(colour) for colour in picture[labels == label].tolist()}
            assert rgba[3] == (0 if label == 255 else 255)
            if label in VOC:
                assert rgba[:3] == VOC[label]
                checked_classes.add(label)
    assert checked_classes
