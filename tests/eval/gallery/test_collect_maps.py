"""Label maps: drawn in the right colours, saved and predicted alike, never another model's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.galleries import all_of_class_0, gallery, measure, pixels
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
    described = folder / "pets.yaml"
    described.write_text(
        "kind: seg\nimages: images\nmasks: masks\nimage_suffix: .png\n"
        f"classes: [{', '.join(CLASSES)}]\n"
        "short_side: 48\nwindow: 32\nstride: 16\ntemplates: ['a {}']\n"
    )
    return described


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_archs: dict[str, str]) -> Path:
    """The pets, the result of the model on them, and its saved label maps."""
    folder = tmp_path_factory.mktemp("pets")
    model = f"openclip:{tiny_archs['tiny']}/random"
    saved = str(folder / "saved")
    measure(folder / "results", model, write_pets(folder), save_predictions=saved)
    return folder


@pytest.fixture(scope="module")
def live(measured: Path) -> Gallery:
    """The gallery of that result, without the saved label maps."""
    return gallery(result_paths(measured / "results"), measured / "pets.yaml")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_pets(tmp_path)


@pytest.fixture
def paths(pets: Path, measured: Path, tmp_path: Path) -> list[Path]:
    """Copies of the result and of the label maps, in the test's folder."""
    for name in ("results", "saved"):
        shutil.copytree(measured / name, tmp_path / name)
    return result_paths(tmp_path / "results")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def classes_of(example: SegmentationExample, picture) -> np.ndarray:
    """Class numbers (H, W) of a drawn map by the legend, 255 where it is transparent."""
    drawn = pixels(picture).astype(int)
    found = np.full(drawn.shape[:2], 255)
    for name, colour in example.legend.items():
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        found[(drawn[..., :3] == rgb).all(-1) & (drawn[..., 3] == 255)] = CLASSES.index(name)
    return found


def test_drawn_maps_are_those_on_the_disk(live, measured, model) -> None:
    """Truth as the set has it, predictions as `--save-predictions` does; none is resized here."""
    assert live.notes == ()
    assert len(live.segmentation) == 3
    for example in live.segmentation:
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


def test_saved_maps_are_used_and_equal(pets, model, checkpoint, tmp_path) -> None:
    """Also without the model; and two forms of attention need no torch to be distinguished."""
    spec, saved = model.replace("random", str(checkpoint)), tmp_path / "saved"
    paths = measure(tmp_path / "results", spec, pets, save_predictions=str(saved))
    live = gallery(paths, pets)
    checkpoint.unlink()
    without = gallery(paths, pets)
    assert [dict(example.predictions) for example in without.segmentation] == [{}, {}, {}]
    (note,) = without.notes
    assert note.startswith(f"{spec}: no label maps on pets (user), no attention maps on pets: ")
    assert note.endswith(
        "; `cosmos-eval run --save-predictions DIR` keeps label maps for --predictions DIR"
    )
    found = gallery(paths, pets, predictions=saved)
    assert found.segmentation == live.segmentation
    assert all("label maps" not in note for note in found.notes)


def test_every_form_of_attention_has_its_own_saved_maps(live, paths, pets, model, tmp_path) -> None:
    saved = tmp_path / "saved"
    others = measure(
        tmp_path / "others", model, pets, save_predictions=str(saved), attention="maskclip"
    )
    (of_model,) = saved.iterdir()
    assert {one.name for one in of_model.iterdir()} == {"pets__user", "pets__user__maskclip"}
    for results, expected in ((paths, live), (others, gallery(others, pets))):
        found = gallery(results, pets, predictions=saved)
        assert (found.segmentation, found.notes) == (expected.segmentation, ())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot read the saved label map"),
        (
            lambda path: Image.new("RGB", (60, 48)).save(path),
            "is not a saved label map: its mode",
        ),
        (lambda path: Image.new("P", (6, 4)).save(path), "not the label maps that"),
        (lambda path: Image.new("P", (60, 48), 9).save(path), "not the label maps that"),
    ],
)
def test_spoilt_saved_maps(
    spoil: Callable[[Path], None], message: str, live, paths, pets, tmp_path
) -> None:
    for path in (tmp_path / "saved").rglob("*.png"):
        spoil(path)
    found = gallery(paths, pets, predictions=tmp_path / "saved")
    assert found.segmentation == live.segmentation
    assert found.notes
    assert all(message in note for note in found.notes)


def test_every_result_in_its_own_form_of_attention(pets, model, tmp_path) -> None:
    results = tmp_path / "results"
    measure(results, model, pets)
    paths = measure(results, model, pets, attention="vanilla", save_predictions=str(tmp_path / "v"))
    found = gallery(paths, pets)
    assert found.notes == ()
    labels = [f"{model} (random weights)", f"{model} (random weights, vanilla)"]
    differ = 0
    for example in found.segmentation:
        assert list(example.predictions) == labels
        own, vanilla = example.predictions.values()
        differ += own != vanilla
        (folder,) = (tmp_path / "v").iterdir()
        predicted = read(folder / "pets__user__vanilla" / f"{example.name}.png")
        np.testing.assert_array_equal(classes_of(example, vanilla), predicted)
    assert differ
    (maps,) = {tuple(example.maps) for example in found.attention}
    assert maps == (labels[0],)  # one model, however its segmentation was measured


def test_other_label_maps_than_were_measured(paths, pets, model, tmp_path) -> None:
    """The names are the same, so only the counts tell."""
    for path in (tmp_path / "masks").iterdir():
        truth = read(path)
        Image.fromarray(np.where(truth == 255, 255, (truth + 1) % 3).astype(np.uint8)).save(path)
    found = gallery(paths, pets)
    assert [dict(example.predictions) for example in found.segmentation] == [{}, {}, {}]
    assert found.notes == (
        f"pets (user): label maps of {model} (random weights) are not shown, as they come out "
        "otherwise than measured",
    )


def test_images_that_were_not_measured(paths, pets, tmp_path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(tmp_path / folder / "one.png", tmp_path / folder / "another.png")
    found = gallery(paths, pets)
    assert found.segmentation == ()
    assert found.notes[0].startswith("pets (user): no pictures of ")


def test_damaged_images_and_label_maps(live, paths, pets, tmp_path) -> None:
    """One image is lost in one way, another in the other, and the last is shown."""
    names = [example.name for example in live.segmentation]
    (tmp_path / "masks" / f"{names[0]}.png").write_bytes(b"no image")
    (tmp_path / "images" / f"{names[1]}.png").write_bytes(b"no image")
    found = gallery(paths, pets)
    assert [example.name for example in found.segmentation] == [names[2]]
    assert any(f"masks/{names[0]}.png" in note for note in found.notes)
    assert any(f"images/{names[1]}.png" in note for note in found.notes)


def test_prompts_of_classes_where_there_are_no_captions(live, measured) -> None:
    assert len(live.attention) == 3
    for example in live.attention:
        truth = read(measured / "masks" / f"{example.name}.png")
        counts = np.bincount(truth.ravel(), minlength=256)[:3]
        smallest = min((count, number) for number, count in enumerate(counts) if count > 28)[1]
        assert example.caption == f"a photo of a {CLASSES[smallest]}."


def test_colours_of_voc(tmp_path) -> None:
    """The set's own colours on its own label maps, without a model or its predictions."""
    root = PARITY / "voc"
    protocol = find_protocol("voc21")
    data = open_data(protocol, RunOptions(data_root=str(root), allow_partial=True))
    samples = all_of_class_0([sample.name for sample in data.samples], protocol)
    made = {"dataset": "voc21", "protocol": "cosmos", "samples": samples}
    path = store(tmp_path, "seg", **made, model={"spec": "cosmos:gone.pt"})
    found = gallery([path], data_root=str(root))
    assert len(found.segmentation) == 3
    shown = set()
    for example in found.segmentation:
        truth = read(root / "SegmentationClass" / f"{example.name}.png")
        drawn = pixels(example.truth)
        assert max(drawn.shape[:2]) <= 320
        # The middle of every drawn pixel.
        rows, columns = (
            ((np.arange(small) + 0.5) * large / small).astype(int)
            for small, large in zip(drawn.shape[:2], truth.shape, strict=True)
        )
        values = truth[np.ix_(rows, columns)]
        for value in np.unique(values):
            (seen,) = {tuple(colour) for colour in drawn[values == value].tolist()}
            assert seen[3] == (0 if value == 255 else 255)
            if value in VOC:
                assert seen[:3] == VOC[value]
                shown.add(value)
    assert shown
