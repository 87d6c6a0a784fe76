"""Label maps of 16 bits, and more classes than 8 bits hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.plain_segmentation import plain_classes, plain_pixels, plain_query_logits
from support.segmenting import measure
from torch.nn import functional as F

from cosmos_eval.data.label_map_checks import check, survey
from cosmos_eval.data.label_maps import open_data, read_label
from cosmos_eval.tasks.segmentation import inference
from cosmos_eval.tasks.segmentation.merge import affinities, refine
from cosmos_eval.types import RunOptions, SegmentationProtocol, UsageError, no_progress

IGNORED = 65535
N_CLASSES = 300


@pytest.fixture
def many(protocol) -> SegmentationProtocol:
    """300 classes; the second and the last have two prompts."""
    names = tuple(f"thing {number}" for number in range(N_CLASSES))
    queries = [(name,) for name in names]
    queries[1], queries[-1] = ("cat", "grass"), ("dog", "puppy")
    return replace(
        protocol,
        **{"class_names": names, "queries": tuple(queries), "templates": ("{}",)},
        **{"groups": {}, "ignore_index": IGNORED, "n_images": 2},
    )


def save_wide(path: Path, values: np.ndarray, **options) -> None:
    Image.fromarray(values.astype(np.uint16)).save(path, **options)


@pytest.fixture
def things(tmp_path, write_set) -> Path:
    """Two images whose label maps hold 0, 255, 256, the last class and the ignored label."""
    sizes = {"one": (48, 60), "two": (37, 41)}
    write_set(tmp_path, sizes)
    for name, size in sizes.items():
        values = np.array([0, 255, 256, N_CLASSES - 1, IGNORED])
        save_wide(tmp_path / f"masks/{name}.png", np.resize(values, size))
    return tmp_path


def options_of(root: Path) -> RunOptions:
    return RunOptions(data_root=str(root), workers=0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_label_maps_of_16_bits_are_read_as_they_are(suffix, order, many, things):
    values = np.array([[0, 255, 256], [N_CLASSES - 1, 1, IGNORED]])
    for name in ("one", "two"):
        (things / f"masks/{name}.png").unlink()
        Image.fromarray(values.astype(f"{order}u2")).save(things / f"masks/{name}{suffix}")
    many = replace(many, mask_suffix=suffix)
    label = read_label(open_data(many, options_of(things)).samples[0], many)
    assert label.dtype == np.uint16
    assert label.tolist() == values.tolist()


def test_the_doctor_says_which_labels_16_bits_hold(many, things):
    found = survey(many, options_of(things), no_progress)
    assert (found.faults, found.labels, found.classes) == ((), (0, 299), (0, 299))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: save_wide(path, np.full((48, 60), N_CLASSES)),
            r"one\.png holds class 300, which pets does not declare \(300 classes, ignored: 65535",
        ),
        (lambda path: Image.new("L", (60, 48)).save(path), r"one\.png is not a map of 16-bit"),
        (
            lambda path: Image.new("I", (60, 48)).save(path, "TIFF"),
            r"one\.png is not a map of 16-bit",
        ),
        (
            lambda path: save_wide(path, np.zeros((48, 60)), format="JPEG2000"),
            r"one\.png is a JPEG2000 file, whose compression",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), r"cannot read .*one\.png"),
        (lambda path: save_wide(path, np.zeros((48, 61))), "is 61x48 px, its image 60x48"),
    ],
)
def test_what_is_no_label_map_of_16_bits_is_refused(damage, message, many, things):
    check(many, options_of(things))
    damage(things / "masks/one.png")
    with pytest.raises(UsageError, match=message):
        check(many, options_of(things))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": 3}, r"has 2 of 3 images of pets"),
        ({"n_images": 1}, r"has 2 images, more than the 1 of pets"),
        ({"ignore_index": 255}, "ignore_index 255 must be above the 300 class indices, at most 65"),
        ({"reduce_zero_label": True}, "turns 0 into 255, so ignore_index must be that too"),
    ],
)
def test_what_contradicts_the_data_is_refused(changes, message, many, things):
    with pytest.raises(UsageError, match=message):
        check(replace(many, **changes), options_of(things))


@pytest.mark.parametrize("refinement", [None, "pamr"])
def test_predictions_and_figures_are_the_plain_ones(refinement, many, things, encoder):
    """Predicted classes up to 299, against the plain form that has all logits at once."""
    many = replace(many, refinement=refinement)
    options = replace(options_of(things), save_predictions=str(things / "out"))
    measured = measure(encoder, many, options)
    segmenter = inference.make_segmenter(encoder, many, options)
    labels, predictions = [], []
    for sample in open_data(many, options).samples:
        with Image.open(things / f"out/pets__user/{sample.name}.png") as saved:
            predictions.append(np.asarray(saved).astype(int))
        labels.append(read_label(sample, many))
        logits = plain_query_logits(sample.image, segmenter)
        if refinement:
            pixels, size = plain_pixels(sample.image, segmenter.protocol)
            large = F.interpolate(pixels[None], size=size, mode="bilinear")[0]
            logits = refine(logits, affinities(large))
        assert (predictions[-1] != plain_classes(logits, many)).mean() < 1e-3
    assert max(map(np.max, predictions)) > 255
    counted = np.bincount(measured.samples["image"], measured.samples["pixels"])
    assert counted.tolist() == [(label != IGNORED).sum() for label in labels]
    label, predicted = (
        np.concatenate([one.ravel() for one in some]) for some in (labels, predictions)
    )
    predicted, label = predicted[label != IGNORED], label[label != IGNORED]
    ious = [
        ((label == n) & (predicted == n)).sum() / ((label == n) | (predicted == n)).sum()
        for n in np.union1d(label, predicted)
    ]
    assert measured.metrics["mIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert measured.metrics["aAcc"] == pytest.approx((label == predicted).mean(), abs=1e-12)


def test_overlays_show_more_classes_than_8_bits_hold(many, things, encoder):
    options = replace(options_of(things), save_predictions=str(things / "out"), overlays=True)
    measure(encoder, many, options)
    with Image.open(things / "out/pets__user/overlays/one.jpg") as page:
        assert page.width > 3 * 480  # three panels and a legend


def test_mmsegmentations_runner_is_not_given_them(tmp_path):
    from cosmos_eval.tasks.segmentation import mmseg_model

    with pytest.raises(UsageError, match="ade20k_847: MMSegmentation casts its label maps"):
        mmseg_model.CosmosEvalDataset("ade20k_847", data_root=str(tmp_path))


def test_images_without_a_label_map_are_left_out_where_the_set_has_them(many, things):
    (things / "masks/one.png").unlink()
    labelled = replace(many, only_labelled=True, n_images=1)
    for options in (options_of(things), replace(options_of(things), limit=1)):
        assert [s.name for s in open_data(labelled, options).samples] == ["two"]
    found = survey(replace(labelled, n_images=2), options_of(things), no_progress)
    assert found.faults == (
        f"1 of 2 images with label maps in {things}/masks missing from {things}/images",
    )
