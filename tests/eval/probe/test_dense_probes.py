"""Dense probes: plain second implementations, what chooses the strength, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from support.dense import linear_axis
from support.dense_probes import (
    DEPTH,
    SEGMENTATION,
    describe,
    write_depth_maps,
    write_label_maps,
)
from support.sharing import together
from torch.nn import functional as F

from cosmos_eval.cli.app import main
from cosmos_eval.data import depth_maps
from cosmos_eval.protocols import protocols_of_dataset
from cosmos_eval.results.checked import read_results
from cosmos_eval.tasks import find_protocol, task_for
from cosmos_eval.tasks.dense_probe import evaluate_depth, views
from cosmos_eval.tasks.dense_probe.evaluate_segmentation import count_classes
from cosmos_eval.tasks.dense_probe.steps import DepthSchedule, LinearHead, Schedule
from cosmos_eval.types import DepthProbeProtocol, Measurement, Progress, RunOptions, UsageError

STEPS = "iterations: 8\nwarmup: 3\nbatch: 2\nlearning_rate: 0.05\nweight_decay: 0.001\n"
OPTIONS = RunOptions(workers=0)


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    return write_label_maps(tmp_path_factory.mktemp("maps"))


@pytest.fixture(scope="module")
def depths(tmp_path_factory) -> Path:
    return write_depth_maps(tmp_path_factory.mktemp("depths"))


def measure(encoder, path: Path, options: RunOptions = OPTIONS) -> Measurement:
    """Measure an encoder by the protocol in a file."""
    protocol = find_protocol(path)
    task = task_for(protocol)
    return task.measure_one(encoder, protocol, options)


def read_rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.float32)


def patches_of(encoder, image: np.ndarray) -> np.ndarray:
    """Return the features (h, w, D) of an image (H, W, 3), whose sides are whole patches."""
    pixels = (image / 255 - encoder.image_mean) / np.array(encoder.image_std)
    tensor = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    return encoder.encode_patches(tensor, "vanilla")[0].numpy()


def repeat_for_pixels(values: np.ndarray, patch_size: int) -> np.ndarray:
    """Repeat values (h, w, ...) of patches for each of their pixels, (H, W, ...)."""
    return values.repeat(patch_size, axis=0).repeat(patch_size, axis=1)


class SklearnRidge:
    """Scikit-learn's ridge regression of standardised features (N, D), one row per pixel."""

    def __init__(self, features: np.ndarray, targets: np.ndarray, strength: float) -> None:
        self.scaler = StandardScaler().fit(features.astype(np.float64))
        self.ridge = Ridge(alpha=strength * len(features), solver="cholesky")
        self.ridge.fit(self.scaler.transform(features.astype(np.float64)), targets)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the predictions (N, ...) of features (N, D)."""
        return self.ridge.predict(self.scaler.transform(features.astype(np.float64)))

    def predict_patches(self, features: np.ndarray) -> np.ndarray:
        """Return the predictions (h, w, C) of the features (h, w, D) of patches."""
        height, width, dim = features.shape
        return self.predict(features.reshape(-1, dim)).reshape(height, width, -1)


def upsample(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate values (h, w, C) of patches to pixels (H, W, C)."""
    rows, columns = linear_axis(size[0], len(values)), linear_axis(size[1], values.shape[1])
    return np.einsum("Hh,hwc,Ww->HWc", rows, values, columns)


def test_segmentation_is_a_ridge_regression_of_pixels(maps, tiny_encoder):
    protocol = replace(find_protocol(maps), strengths=(1e-4, 1e-2, 1.0))
    measurement = task_for(protocol).measure_one(tiny_encoder, protocol, OPTIONS)
    record = measurement.settings["dense_probe"]
    assert (record["training_images"], record["validation_images"]) == (8, 2)

    root = maps.parent
    held_out = np.random.default_rng(0).permutation(8)[:2]
    features, targets, image_of_pixel = [], [], []
    for number in range(8):
        label = np.asarray(Image.open(root / f"train/masks/{number}.png"))
        patches = patches_of(tiny_encoder, read_rgb(root / f"train/images/{number}.png"))
        features.append(repeat_for_pixels(patches, 8)[label != 255])
        targets.append(np.eye(3)[label[label != 255]])
        image_of_pixel.append(np.full(len(targets[-1]), number))
    x, y = np.concatenate(features), np.concatenate(targets)
    is_held_out = np.isin(np.concatenate(image_of_pixel), held_out)

    # The strength has the smallest error on the images that are held out.
    strengths = protocol.strengths
    errors = []
    for strength in strengths:
        ridge = SklearnRidge(x[~is_held_out], y[~is_held_out], strength)
        residuals = ridge.predict(x[is_held_out]) - y[is_held_out]
        errors.append((residuals**2).sum(1).mean())
    assert record["strength"] == strengths[int(np.argmin(errors))]

    # The regression on all training images gives the stored pixel counts: of each image, of each
    # pair of a true and a predicted class.
    ridge = SklearnRidge(x, y, record["strength"])
    counts = np.zeros((4, 9), int)
    for number in range(4):
        label = np.asarray(Image.open(root / f"test/masks/{number}.png"))
        patches = patches_of(tiny_encoder, read_rgb(root / f"test/images/{number}.png"))
        logits = ridge.predict_patches(patches)
        pairs = label.astype(int) * 3 + upsample(logits, label.shape).argmax(2)
        counts[number] = np.bincount(pairs[label != 255], minlength=9)
    stored_counts = np.zeros((4, 9), int)
    samples = measurement.samples
    stored_counts[samples["image"], samples["pair"]] = samples["pixels"]
    assert np.abs(stored_counts - counts).sum() <= 2  # pixels at a border


def test_nothing_is_chosen_by_test_images(maps, tiny_encoder, tmp_path):
    """Other label maps of the test images change metrics, but not what was chosen."""
    maps_without_classes = write_label_maps(tmp_path)
    for path in (tmp_path / "test/masks").iterdir():
        Image.fromarray(np.zeros((32, 40), np.uint8)).save(path)
    first = measure(tiny_encoder, maps)
    second = measure(tiny_encoder, maps_without_classes)
    assert first.settings == second.settings
    assert first.metrics != second.metrics
    assert first.hashes["content"] != second.hashes["content"]


def ignore_progress(progress: Progress) -> None:
    """Show nothing."""


@pytest.mark.parametrize("more", ["", STEPS], ids=["ridge", "steps"])
def test_resumed_runs_and_two_processes_give_the_same(more, tmp_path, tiny_encoder):
    """Images are predicted in windows of 24 pixels."""
    write_label_maps(tmp_path)
    path = describe(tmp_path, SEGMENTATION, window="24", more=more)
    by_one_process = measure(tiny_encoder, path)

    resumable = replace(OPTIONS, unfinished=str(tmp_path / "unfinished"))
    protocol = find_protocol(path)
    task = task_for(protocol)
    data = task.open_data(protocol, resumable)
    measurements = task.measure(tiny_encoder, [protocol], [data], resumable, ignore_progress)
    # A run that is not asked for the next measurement leaves its shards.
    next(measurements)
    resumed = measure(tiny_encoder, path, resumable)

    def measure_in_group(distributed) -> Measurement:
        return measure(tiny_encoder, path, replace(OPTIONS, distributed=distributed))

    by_two_processes = together(2, measure_in_group)
    for measurement in (resumed, *by_two_processes):
        assert measurement.metrics == pytest.approx(by_one_process.metrics, abs=1e-9)
        assert measurement.hashes == by_one_process.hashes
    assert by_one_process.metrics["mIoU"] > 0.2  # a random model sees colours


def test_pixels_are_divided_among_patches():
    """Three rows of five pixels lie under two patches of one row, or under one patch each."""
    label = np.array([[0, 0, 1, 255, 1]] * 3, np.uint8)
    counts = count_classes(label, (1, 2), 2, 255)
    assert counts.tolist() == [[6, 3], [0, 3]]
    assert count_classes(label, (3, 5), 2, 255).sum() == 12


def test_learning_rates_are_those_of_the_original_schedulers():
    """By step, computed by dinov3/eval/{segmentation,depth}/schedulers.py at 6876159 in its
    training loops."""
    segmentation_rates = {
        0: 1.0000000000287558e-09,
        1: 1.0000000000287558e-09,
        2: 6.676493083500112e-07,
        1500: 0.0009618833173083499,
        1501: 0.0009965296112632268,
        20000: 0.0005,
        39999: 1.5421257049119675e-12,
    }
    schedule = Schedule(40000, 1500, 1e-3)
    rates = {step: schedule.rate(step) for step in segmentation_rates}
    assert rates == pytest.approx(segmentation_rates, rel=1e-9)
    depth_rates = {
        0: 3e-07,
        2: 3.468749996862537e-07,
        12799: 0.00022529304852436912,
        12800: 0.00022499237244348423,
        20000: 0.00014018367798558293,
        38399: 1.2e-08,
    }
    schedule = DepthSchedule(38400, 12800, 3e-4)
    rates = {step: schedule.rate(step) for step in depth_rates}
    assert rates == pytest.approx(depth_rates, rel=1e-9)
    depth_momenta = {
        0: 0,
        12799: 0,
        12800: 0.85,
        20000: 0.8682803357918177,
        38399: 0.9499999996235045,
    }
    momenta = {step: schedule.beta1(step) for step in depth_momenta}
    assert momenta == pytest.approx(depth_momenta, rel=1e-9)


def test_a_trained_head_is_one_linear_map():
    """Its weights and bias include the batch normalisation with the running mean and variance."""
    torch.manual_seed(0)
    head = LinearHead(6, 3, dropout=0.1)
    features = 2 + 3 * torch.randn(4, 6, 5, 5)
    torch.nn.init.normal_(head.norm.weight)
    for _ in range(3):
        head(features)  # moves the running mean and variance
    expected = head.eval()(features).permute(0, 2, 3, 1).detach().numpy()
    parameters = head.parameters_by_name()
    features_last = features.permute(0, 2, 3, 1).numpy()
    outputs = features_last @ parameters["weights"].T + parameters["bias"]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_random_views_have_the_size_and_the_classes_that_they_should():
    """A crop has less than 75% of one class, unless ten draws find no such crop."""
    generator = np.random.default_rng(0)
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    label = np.zeros((20, 30), np.uint8)
    label[:, 20:] = 1
    for _ in range(20):
        crop, crop_label = views.random_crop(image, label, 12, 255, generator)
        assert crop.shape == (12, 12, 3)
        largest_class = np.bincount(crop_label.ravel()).max()
        assert largest_class < 0.75 * 144 or len(np.unique(crop_label)) == 1
    # Ten draws almost always find a crop of both classes.
    assert len(np.unique(crop_label)) == 2
    sizes = {views.random_size(100, generator) for _ in range(200)}
    assert 50 <= min(sizes) < 60
    assert 190 < max(sizes) <= 200
    # Padding to 6 x 6 pixels adds zeros to the 60 ones, and 36 - 20 pixels without a class.
    pixels, padded_label = views.pad(torch.ones(3, 4, 5), np.ones((4, 5), np.uint8), 6, 255)
    assert (pixels.sum(), (padded_label == 255).sum()) == (60, 16)
    assert views.distort_colours(image, generator).dtype == np.uint8


def test_depth_is_a_ridge_regression_of_pixels(depths, tiny_encoder):
    measurement = measure(tiny_encoder, depths)
    root = depths.parent

    def pad_rows(array: np.ndarray) -> np.ndarray:
        """Add a row of zeros above and one below: 30 x 40 pixels become patches of 8 x 8."""
        return np.pad(array, ((1, 1), (0, 0), (0, 0))[: array.ndim])

    def features_of(image: np.ndarray) -> np.ndarray:
        # Padding is 0 after the normalisation, which is the mean colour before it.
        mean_colour = 255 * np.array(tiny_encoder.image_mean, np.float32)
        return patches_of(tiny_encoder, pad_rows(image - mean_colour) + mean_colour)

    features, targets = [], []
    for number in range(6):
        depth = np.asarray(Image.open(root / f"train_room/depth_{number}.png")) / 1000
        patches = features_of(read_rgb(root / f"train_room/rgb_{number}.png"))
        has_depth = pad_rows(depth) > 0
        features.append(repeat_for_pixels(patches, 8)[has_depth])
        targets.append(pad_rows(depth)[has_depth])
    strength = measurement.settings["dense_probe"]["strength"]
    ridge = SklearnRidge(np.concatenate(features), np.concatenate(targets), strength)
    for number in range(3):
        depth = np.asarray(Image.open(root / f"test_room/depth_{number}.png")) / 1000
        image = read_rgb(root / f"test_room/rgb_{number}.png")
        # The prediction is the mean over the image and its mirror image.
        of_image = ridge.predict_patches(features_of(image))
        of_mirrored = ridge.predict_patches(features_of(image[:, ::-1]))
        of_patches = (of_image + of_mirrored[:, ::-1]) / 2
        of_pixels = upsample(of_patches, depth.shape)[..., 0].clip(0.001, 5)
        predicted_depth, true_depth = of_pixels[depth > 0], depth[depth > 0]
        error = predicted_depth - true_depth
        ratio = np.maximum(predicted_depth / true_depth, true_depth / predicted_depth)
        samples = {name: values[number] for name, values in measurement.samples.items()}
        assert samples["pixels"] == 30 * 37
        assert samples["rmse"] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-4)
        assert samples["abs_rel"] == pytest.approx((abs(error) / true_depth).mean(), abs=1e-4)
        assert samples["delta1"] == pytest.approx((ratio < 1.25).mean(), abs=2e-3)
    assert measurement.metrics["rmse"] == pytest.approx(measurement.samples["rmse"].mean())


def test_depth_metrics_of_a_case_solved_by_hand(depths):
    protocol = replace(find_protocol(depths), test_box=(0, 0, 320, 480))
    depth = np.array([[1, 2, 0, 9], [4, 6, 1, 1]], np.float32)  # 0 and 6 do not count
    predicted = np.array([[1.2, 3, 1, 1], [2, 1, 5, 5]], np.float32)
    metrics = evaluate_depth.image_metrics(depth, predicted, protocol)
    assert metrics["pixels"] == 3
    assert metrics["rmse"] == pytest.approx(np.sqrt((0.04 + 1 + 4) / 3))
    assert metrics["abs_rel"] == pytest.approx((0.2 + 0.5 + 0.5) / 3)
    assert [metrics[f"delta{n}"] for n in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    of_no_pixels = evaluate_depth.image_metrics(0 * depth, predicted, protocol)
    assert of_no_pixels.pop("pixels") == 0
    assert np.isnan(list(of_no_pixels.values())).all()


def test_the_depth_of_scores_is_a_mean_of_bins():
    protocol = DepthProbeProtocol(dataset="d", protocol_name="p", train="a", test="b", bins=3)
    scores = torch.tensor([-5.0, 0.4, 1.9]).view(1, 3, 1, 1)  # weights 0.1, 0.5 and 2
    expected = (0.1 * 0.001 + 0.5 * 5.0005 + 2 * 10) / 2.6
    assert evaluate_depth.depth_of(scores, protocol).item() == pytest.approx(expected)


def test_the_loss_of_depth_is_scale_invariant(depths, tiny_encoder):
    """It is computed of log ratios: of the first two images together, and of the third.

    A depth of 0 does not count. The first 100 steps leave the variance out.
    """
    protocol = find_protocol(depths)
    model = evaluate_depth.DepthModel(tiny_encoder, protocol, "vanilla", OPTIONS)
    images = evaluate_depth._TrainingImages(model, (), ignore_progress)
    true_depths = torch.tensor([[[1.0, 2.0]], [[4.0, 0.0]], [[1.0, 1.0]]])
    outputs = torch.tensor([[[[2.0, 2.0]]], [[[2.0, 9.0]]], [[[1.0, 3.0]]]])
    log_ratios = [np.log([2.001 / 1.001, 1, 2.001 / 4.001]), np.log([1, 3.001 / 1.001])]
    squared_means = np.array([0.15 * ratios.mean() ** 2 for ratios in log_ratios])
    variances = np.array([ratios.var(ddof=1) for ratios in log_ratios])
    early_loss = np.sqrt(squared_means).mean()
    late_loss = np.sqrt(variances + squared_means).mean()
    assert images.loss(outputs, true_depths, 99).item() == pytest.approx(early_loss, rel=1e-5)
    assert images.loss(outputs, true_depths, 100).item() == pytest.approx(late_loss, rel=1e-5)


def test_training_by_steps_lowers_the_error_and_repeats(tmp_path, tiny_encoder):
    write_depth_maps(tmp_path)

    def train_and_measure(iterations: int, warmup: int) -> Measurement:
        steps = f"iterations: {iterations}\nwarmup: {warmup}\nbatch: 4\nlearning_rate: 0.05"
        return measure(tiny_encoder, describe(tmp_path, DEPTH, more=steps))

    after_1_step, after_60_steps = train_and_measure(1, 0), train_and_measure(60, 6)
    assert train_and_measure(1, 0).metrics == after_1_step.metrics
    assert after_60_steps.metrics["rmse"] < 0.8 * after_1_step.metrics["rmse"]
    record = after_60_steps.settings["dense_probe"]
    assert record == {"solver": "AdamW, 60 steps", "training_images": 6}
    path = describe(tmp_path, DEPTH.replace("24, 32", "99, 32"), more=STEPS)
    with pytest.raises(UsageError, match="smaller than crops of 99 px: set `crop` lower"):
        measure(tiny_encoder, path)


def test_a_box_is_scaled_to_the_image():
    assert depth_maps.box_slices((320, 0, 640, 480), (24, 32)) == (slice(0, 24), slice(16, 32))
    # At the original size, the box of NYU is not scaled.
    box = protocols_of_dataset("nyu_depth")["ridge"].test_box
    assert depth_maps.box_slices(box, (480, 640)) == (slice(45, 471), slice(41, 601))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "test.txt is empty: a line names an image and its depth map"),
        ("a.png\n", "test.txt, line 1: name an image and its depth map, below"),
        ("a.png ../b.png\n", "test.txt, line 1: name an image and its depth map, below"),
        ("test_room/rgb_0.png x.png\n", "x.png, which is not there"),
        ("/a.png b.png\na.png c.png\n", "test.txt, line 2: a.png is named twice"),
        ("train_room/rgb_0.png train_room/depth_0.png 1\n", "is a training and a test image"),
        ("test_room/rgb_0.png test_room/rgb_1.png\n", "not a depth map of 16 bits (PIL mode RGB)"),
        ("test_room/rgb_0.png small.png\n", "small.png is 5x4 px, its image 40x30"),
    ],
)
def test_faulty_lists_end_in_one_line(text, fault, tmp_path, capsys):
    path = write_depth_maps(tmp_path)
    Image.fromarray(np.ones((4, 5), np.uint16)).save(tmp_path / "small.png")
    (tmp_path / "test.txt").write_text(text)
    with pytest.raises(SystemExit) as exit_info:
        main(["run", "--dataset", str(path), "--model", "scenes-cosmos", "--output", str(tmp_path)])
    assert exit_info.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "cosmos-eval:" in line)
    assert fault in line


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("strengths: [0.0]", "strengths must be above 0"),
        ("validation: 1.0", "validation must be a share between 0 and 1"),
        ("iterations: 0", "batch and iterations must be 1 or more"),
        ("iterations: 9", "warmup must be below iterations"),
        ("min_depth: 7.0", "min_depth must be above 0 and below max_depth"),
        ("test: train.txt", "train and test must be different lists"),
        ("test_box: [9, 0, 5, 5]", "boxes must be [left, top, right, bottom]"),
    ],
)
def test_constants_that_contradict_each_other_are_refused(more, fault, tmp_path):
    write_depth_maps(tmp_path)
    text = DEPTH.replace("test: test.txt\n", "") if more.startswith("test:") else DEPTH
    protocol = find_protocol(describe(tmp_path, text, more=more))
    with pytest.raises(UsageError, match="own: ") as raised:
        task_for(protocol).open_data(protocol, OPTIONS)
    assert fault in str(raised.value)


def test_public_sets_have_their_counts_and_both_protocols(tmp_path):
    for name, n_train, n_test in (
        ("ade20k-probe", 20210, 2000),
        ("voc21-probe", 1464, 1449),
        ("nyu_depth", 24231, 654),
    ):
        protocols = protocols_of_dataset(name)
        assert [*protocols] == ["ridge", "dinov3"]
        for protocol in protocols.values():
            assert (protocol.n_train_images, protocol.n_images) == (n_train, n_test)
            assert not list(protocol.faults())
            with pytest.raises(UsageError):
                task_for(protocol).open_data(protocol, RunOptions(data_root=str(tmp_path)))
    segmentation = protocols_of_dataset("ade20k-probe")["dinov3"]
    assert (segmentation.window, segmentation.stride, segmentation.short_side) == (512, 341, 512)
    assert segmentation.iterations == 40000
    # A list that is too short is refused.
    write_depth_maps(tmp_path / "NYU")
    for split in ("train", "test"):
        (tmp_path / f"NYU/{split}.txt").rename(tmp_path / f"NYU/nyu_{split}.txt")
    protocol = protocols_of_dataset("nyu_depth")["ridge"]
    with pytest.raises(UsageError, match="has 3 of 654 images"):
        task_for(protocol).open_data(protocol, RunOptions(data_root=str(tmp_path)))


def call(*arguments: str) -> None:
    """Run a command that succeeds."""
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments])
    assert exit_info.value.code == 0


def test_results_are_compared_verified_and_ranked(depths, tmp_path, capsys):
    arguments = ["--dataset", str(depths), "--output", str(tmp_path)]
    call("run", *arguments, "--model", "scenes-cosmos", "--model", "scenes-clip")
    rows = read_results(tmp_path)
    assert {row.task for row in rows} == {"depth-probe"}
    assert all(row.provenance["dense_probe"]["validation_images"] == 1 for row in rows)
    call("verify", str(tmp_path))
    assert "2 verified" in capsys.readouterr().out
    paths = sorted(str(path) for path in tmp_path.glob("*.json"))
    call("compare", *paths, "--json")
    assert "rmse" in json.dumps(json.loads(capsys.readouterr().out))
    call("leaderboard", str(tmp_path))
    assert "RMSE (m)" in capsys.readouterr().out


def test_images_are_padded_on_all_sides():
    """13 columns of ones become 16: one column of zeros on the left, and two on the right."""
    padded = evaluate_depth.pad_to_patches(torch.ones(3, 8, 13), 8)
    assert padded.shape == (3, 8, 16)
    first_row = padded[0, 0].tolist()
    assert [value != next_value for value, next_value in pairwise(first_row)].count(True) == 2
    assert first_row.index(1) == 1


def test_segmentation_loss_counts_pixels_without_a_class_as_0(maps, tiny_encoder):
    from cosmos_eval.tasks.dense_probe.evaluate_segmentation import _TrainingImages

    protocol = find_protocol(maps)
    images = _TrainingImages(tiny_encoder, protocol, "vanilla", (), OPTIONS, ignore_progress)
    logits = torch.randn(1, 3, 2, 2)
    classes = torch.tensor([[[0, 255], [2, 1]]])
    losses = [
        F.cross_entropy(logits[0, :, row, column], classes[0, row, column])
        for row, column in ((0, 0), (1, 0), (1, 1))
    ]
    assert images.loss(logits, classes, 0).item() == pytest.approx(sum(losses).item() / 4)
