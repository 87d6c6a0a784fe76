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
def wide_protocol(protocol) -> SegmentationProtocol:
    """Return a protocol of 300 classes, of which the second and the last have two prompts."""
    names = tuple(f"thing {number}" for number in range(N_CLASSES))
    queries = [(name,) for name in names]
    queries[1], queries[-1] = ("cat", "grass"), ("dog", "puppy")
    return replace(
        protocol,
        class_names=names,
        queries=tuple(queries),
        templates=("{}",),
        groups={},
        ignore_index=IGNORED,
        n_images=2,
    )


def save_wide(path: Path, values: np.ndarray, **options) -> None:
    Image.fromarray(values.astype(np.uint16)).save(path, **options)


@pytest.fixture
def root(tmp_path, write_set) -> Path:
    """Write two images whose label maps hold 0, 255, 256, the last class and the ignored label."""
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
def test_label_maps_of_16_bits_are_read_as_they_are(suffix, order, wide_protocol, root):
    values = np.array([[0, 255, 256], [N_CLASSES - 1, 1, IGNORED]])
    for name in ("one", "two"):
        (root / f"masks/{name}.png").unlink()
        Image.fromarray(values.astype(f"{order}u2")).save(root / f"masks/{name}{suffix}")
    wide_protocol = replace(wide_protocol, mask_suffix=suffix)
    label = read_label(open_data(wide_protocol, options_of(root)).samples[0], wide_protocol)
    assert label.dtype == np.uint16
    assert label.tolist() == values.tolist()


def test_the_doctor_says_which_labels_16_bits_hold(wide_protocol, root):
    findings = survey(wide_protocol, options_of(root), no_progress)
    assert (findings.faults, findings.labels, findings.classes) == ((), (0, 299), (0, 299))


def save_an_undeclared_class(path: Path) -> None:
    save_wide(path, np.full((48, 60), N_CLASSES))


def save_with_8_bits(path: Path) -> None:
    Image.new("L", (60, 48)).save(path)


def save_with_32_bits(path: Path) -> None:
    Image.new("I", (60, 48)).save(path, "TIFF")


def save_as_jpeg_2000(path: Path) -> None:
    save_wide(path, np.zeros((48, 60)), format="JPEG2000")


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def save_with_another_width(path: Path) -> None:
    save_wide(path, np.zeros((48, 61)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            save_an_undeclared_class,
            r"one\.png holds class 300, which pets does not declare \(300 classes, ignored: 65535",
        ),
        (save_with_8_bits, r"one\.png is not a map of 16-bit"),
        (save_with_32_bits, r"one\.png is not a map of 16-bit"),
        (save_as_jpeg_2000, r"one\.png is a JPEG2000 file, whose compression"),
        (cut_the_end, r"cannot read .*one\.png"),
        (save_with_another_width, "is 61x48 px, its image 60x48"),
    ],
)
def test_a_damaged_label_map_is_refused(damage, message, wide_protocol, root):
    check(wide_protocol, options_of(root))
    damage(root / "masks/one.png")
    with pytest.raises(UsageError, match=message):
        check(wide_protocol, options_of(root))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": 3}, r"has 2 of 3 images of pets"),
        ({"n_images": 1}, r"has 2 images, more than the 1 of pets"),
        ({"ignore_index": 255}, "ignore_index 255 must be above the 300 class indices, at most 65"),
        ({"reduce_zero_label": True}, "turns 0 into 255, so ignore_index must be that too"),
    ],
)
def test_a_protocol_that_contradicts_the_data_is_refused(changes, message, wide_protocol, root):
    with pytest.raises(UsageError, match=message):
        check(replace(wide_protocol, **changes), options_of(root))


@pytest.mark.parametrize("refinement", [None, "pamr"])
def test_predictions_and_figures_equal_the_plain_form(refinement, wide_protocol, root, encoder):
    """Classes up to 299 are predicted; the plain form has the logits of all of them at once."""
    wide_protocol = replace(wide_protocol, refinement=refinement)
    options = replace(options_of(root), save_predictions=str(root / "out"))
    measurement = measure(encoder, wide_protocol, options)
    segmenter = inference.make_segmenter(encoder, wide_protocol, options)
    labels, predictions = [], []
    for sample in open_data(wide_protocol, options).samples:
        with Image.open(root / f"out/pets__user/{sample.name}.png") as saved:
            predictions.append(np.asarray(saved).astype(int))
        labels.append(read_label(sample, wide_protocol))
        logits = plain_query_logits(sample.image, segmenter)
        if refinement:
            pixels, size = plain_pixels(sample.image, segmenter.protocol)
            large = F.interpolate(pixels[None], size=size, mode="bilinear")[0]
            logits = refine(logits, affinities(large))
        assert (predictions[-1] != plain_classes(logits, wide_protocol)).mean() < 1e-3
    assert max(map(np.max, predictions)) > 255
    pixels_by_image = np.bincount(measurement.samples["image"], measurement.samples["pixels"])
    assert pixels_by_image.tolist() == [(label != IGNORED).sum() for label in labels]
    all_labels = np.concatenate([label.ravel() for label in labels])
    all_predictions = np.concatenate([prediction.ravel() for prediction in predictions])
    valid = all_labels != IGNORED
    valid_labels, valid_predictions = all_labels[valid], all_predictions[valid]
    ious = []
    for class_index in np.union1d(valid_labels, valid_predictions):
        is_labelled = valid_labels == class_index
        is_predicted = valid_predictions == class_index
        ious.append((is_labelled & is_predicted).sum() / (is_labelled | is_predicted).sum())
    accuracy = (valid_labels == valid_predictions).mean()
    assert measurement.metrics["mIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert measurement.metrics["aAcc"] == pytest.approx(accuracy, abs=1e-12)


def test_overlays_show_more_classes_than_8_bits_hold(wide_protocol, root, encoder):
    options = replace(options_of(root), save_predictions=str(root / "out"), overlays=True)
    measure(encoder, wide_protocol, options)
    with Image.open(root / "out/pets__user/overlays/one.jpg") as page:
        assert page.width > 3 * 480  # three panels and a legend


def test_mmsegmentations_runner_refuses_label_maps_of_16_bits(tmp_path):
    from cosmos_eval.tasks.segmentation import mmseg_model

    with pytest.raises(UsageError, match="ade20k_847: MMSegmentation casts its label maps"):
        mmseg_model.CosmosEvalDataset("ade20k_847", data_root=str(tmp_path))


def test_only_labelled_images_are_read_if_the_protocol_says_so(wide_protocol, root):
    (root / "masks/one.png").unlink()
    labelled = replace(wide_protocol, only_labelled=True, n_images=1)
    for options in (options_of(root), replace(options_of(root), limit=1)):
        assert [sample.name for sample in open_data(labelled, options).samples] == ["two"]
    findings = survey(replace(labelled, n_images=2), options_of(root), no_progress)
    assert findings.faults == (
        f"1 of 2 images with label maps in {root}/masks missing from {root}/images",
    )
