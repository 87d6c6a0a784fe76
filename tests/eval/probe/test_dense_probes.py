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
from cosmos_eval.types import DepthProbeProtocol, Measurement, RunOptions, UsageError

STEPS = "iterations: 8\nwarmup: 3\nbatch: 2\nlearning_rate: 0.05\nweight_decay: 0.001\n"
OPTIONS = RunOptions(workers=0)


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    return write_label_maps(tmp_path_factory.mktemp("maps"))


@pytest.fixture(scope="module")
def depths(tmp_path_factory) -> Path:
    return write_depth_maps(tmp_path_factory.mktemp("depths"))


def measured(encoder, path: Path, options: RunOptions = OPTIONS) -> Measurement:
    protocol = find_protocol(path)
    task = task_for(protocol)
    return task.measure_one(encoder, protocol, options)


def read_rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.float32)


def patches_of(encoder, image: np.ndarray) -> np.ndarray:
    """Features (h, w, D) of an image (H, W, 3), whose sides are whole patches."""
    pixels = (image / 255 - encoder.image_mean) / np.array(encoder.image_std)
    tensor = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    return encoder.encode_patches(tensor, "vanilla")[0].numpy()


def spread(values: np.ndarray, patch: int) -> np.ndarray:
    """Values (h, w, ...) of patches, for each of their pixels."""
    return values.repeat(patch, axis=0).repeat(patch, axis=1)


def sklearn_ridge(features, targets, strength):
    """Scikit-learn's predictor, of one sample per labelled pixel."""
    scaler = StandardScaler().fit(features.astype(np.float64))
    ridge = Ridge(alpha=strength * len(features), solver="cholesky")
    ridge.fit(scaler.transform(features.astype(np.float64)), targets)
    return lambda x: ridge.predict(scaler.transform(x.astype(np.float64)))


def upsample(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values (h, w, C) of patches interpolated to pixels (H, W, C)."""
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
        features.append(spread(patches, 8)[label != 255])
        targets.append(np.eye(3)[label[label != 255]])
        image_of_pixel.append(np.full(len(targets[-1]), number))
    x, y = np.concatenate(features), np.concatenate(targets)
    is_held_out = np.isin(np.concatenate(image_of_pixel), held_out)

    # The strength has the least error on the images that are held out.
    strengths = protocol.strengths
    errors = []
    for strength in strengths:
        predict = sklearn_ridge(x[~is_held_out], y[~is_held_out], strength)
        errors.append(((predict(x[is_held_out]) - y[is_held_out]) ** 2).sum(1).mean())
    assert record["strength"] == strengths[int(np.argmin(errors))]

    # The map of all training images gives the stored pixel counts.
    predict = sklearn_ridge(x, y, record["strength"])
    counts = np.zeros((4, 9), int)
    for number in range(4):
        label = np.asarray(Image.open(root / f"test/masks/{number}.png"))
        patches = patches_of(tiny_encoder, read_rgb(root / f"test/images/{number}.png"))
        logits = predict(patches.reshape(-1, patches.shape[2])).reshape(*patches.shape[:2], 3)
        pairs = label.astype(int) * 3 + upsample(logits, label.shape).argmax(2)
        counts[number] = np.bincount(pairs[label != 255], minlength=9)
    found = np.zeros((4, 9), int)
    samples = measurement.samples
    found[samples["image"], samples["pair"]] = samples["pixels"]
    assert np.abs(found - counts).sum() <= 2  # pixels at a border


def test_nothing_is_chosen_by_test_images(maps, tiny_encoder, tmp_path):
    other = write_label_maps(tmp_path)
    for path in (tmp_path / "test/masks").iterdir():
        Image.fromarray(np.zeros((32, 40), np.uint8)).save(path)
    first, second = measured(tiny_encoder, maps), measured(tiny_encoder, other)
    assert first.settings == second.settings
    assert first.metrics != second.metrics
    assert first.hashes["content"] != second.hashes["content"]


@pytest.mark.parametrize("more", ["", STEPS])
def test_windows_resumed_runs_and_processes_give_the_same(more, tmp_path, tiny_encoder):
    write_label_maps(tmp_path)
    path = describe(tmp_path, SEGMENTATION, window="24", more=more)
    alone = measured(tiny_encoder, path)
    kept = replace(OPTIONS, unfinished=str(tmp_path / "unfinished"))
    protocol = find_protocol(path)
    data = task_for(protocol).open_data(protocol, kept)
    # A run that is not asked for the next measurement leaves its shards.
    stopped = task_for(protocol).measure(tiny_encoder, [protocol], [data], kept, lambda _: None)
    next(stopped)
    resumed = measured(tiny_encoder, path, kept)
    shared = together(2, lambda d: measured(tiny_encoder, path, replace(OPTIONS, distributed=d)))
    for other in (resumed, *shared):
        assert other.metrics == pytest.approx(alone.metrics, abs=1e-9)
        assert other.hashes == alone.hashes
    assert alone.metrics["mIoU"] > 0.2  # a random model sees colours


def test_pixels_are_divided_among_patches():
    label = np.array([[0, 0, 1, 255, 1]] * 3, np.uint8)
    found = count_classes(label, (1, 2), 2, 255)
    assert found.tolist() == [[6, 3], [0, 3]]
    assert count_classes(label, (3, 5), 2, 255).sum() == 12


def test_rates_are_those_of_the_original_scheduler():
    # Computed by dinov3/eval/{segmentation,depth}/schedulers.py at 6876159 in its training loops.
    published = {0: 1.0000000000287558e-09, 1: 1.0000000000287558e-09, 2: 6.676493083500112e-07}
    published |= {1500: 0.0009618833173083499, 1501: 0.0009965296112632268, 20000: 0.0005}
    published |= {39999: 1.5421257049119675e-12}
    schedule = Schedule(40000, 1500, 1e-3)
    assert {step: schedule.rate(step) for step in published} == pytest.approx(published, rel=1e-9)
    rates = {0: 3e-07, 2: 3.468749996862537e-07, 12799: 0.00022529304852436912}
    rates |= {12800: 0.00022499237244348423, 20000: 0.00014018367798558293, 38399: 1.2e-08}
    schedule = DepthSchedule(38400, 12800, 3e-4)
    assert {step: schedule.rate(step) for step in rates} == pytest.approx(rates, rel=1e-9)
    momenta = {0: 0, 12799: 0, 12800: 0.85, 20000: 0.8682803357918177, 38399: 0.9499999996235045}
    assert {s: schedule.beta1(s) for s in momenta} == pytest.approx(momenta, rel=1e-9)


def test_a_trained_head_is_one_linear_map():
    torch.manual_seed(0)
    head = LinearHead(6, 3, dropout=0.1)
    features = 2 + 3 * torch.randn(4, 6, 5, 5)
    torch.nn.init.normal_(head.norm.weight)
    for _ in range(3):
        head(features)  # moves the running mean and variance
    expected = head.eval()(features).permute(0, 2, 3, 1).detach().numpy()
    parameters = head.parameters_by_name()
    found = features.permute(0, 2, 3, 1).numpy() @ parameters["weights"].T + parameters["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_random_views():
    generator = np.random.default_rng(0)
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    label = np.zeros((20, 30), np.uint8)
    label[:, 20:] = 1
    for _ in range(20):
        square, classes = views.random_crop(image, label, 12, 255, generator)
        assert square.shape == (12, 12, 3)
        assert np.bincount(classes.ravel()).max() < 0.75 * 144 or len(np.unique(classes)) == 1
    # Ten draws almost always find a crop of both classes.
    assert len(np.unique(classes)) == 2
    sizes = {views.random_size(100, generator) for _ in range(200)}
    assert 50 <= min(sizes) < 60
    assert 190 < max(sizes) <= 200
    pixels, padded = views.pad(torch.ones(3, 4, 5), np.ones((4, 5), np.uint8), 6, 255)
    assert (pixels.sum(), (padded == 255).sum()) == (60, 16)
    assert views.distort_colours(image, generator).dtype == np.uint8


def test_depth_is_a_ridge_regression_of_pixels(depths, tiny_encoder):
    measurement = measured(tiny_encoder, depths)
    root = depths.parent

    def padded(array):  # 30 x 40 pixels in patches of 8 get one row above and one below
        return np.pad(array, ((1, 1), (0, 0), (0, 0))[: array.ndim])

    def features_of(image):
        # Padding is 0 after the normalisation, which is the mean colour before it.
        mean = 255 * np.array(tiny_encoder.image_mean, np.float32)
        return patches_of(tiny_encoder, padded(image - mean) + padded(np.zeros_like(image)) + mean)

    features, targets = [], []
    for number in range(6):
        depth = np.asarray(Image.open(root / f"train_room/depth_{number}.png")) / 1000
        patches = features_of(read_rgb(root / f"train_room/rgb_{number}.png"))
        known = padded(depth) > 0
        features.append(spread(patches, 8)[known])
        targets.append(padded(depth)[known])
    strength = measurement.settings["dense_probe"]["strength"]
    predict = sklearn_ridge(np.concatenate(features), np.concatenate(targets), strength)
    for number in range(3):
        depth = np.asarray(Image.open(root / f"test_room/depth_{number}.png")) / 1000
        image = read_rgb(root / f"test_room/rgb_{number}.png")
        both = []
        for view in (image, image[:, ::-1]):
            patches = features_of(view)
            both.append(predict(patches.reshape(-1, patches.shape[2])).reshape(patches.shape[:2]))
        mean = (both[0] + both[1][:, ::-1]) / 2
        guess = upsample(mean[..., None], depth.shape)[..., 0].clip(0.001, 5)[depth > 0]
        true = depth[depth > 0]
        samples = {name: values[number] for name, values in measurement.samples.items()}
        assert samples["pixels"] == 30 * 37
        assert samples["rmse"] == pytest.approx(np.sqrt(((guess - true) ** 2).mean()), abs=1e-4)
        assert samples["abs_rel"] == pytest.approx((abs(guess - true) / true).mean(), abs=1e-4)
        within = (np.maximum(guess / true, true / guess) < 1.25).mean()
        assert samples["delta1"] == pytest.approx(within, abs=2e-3)
    assert measurement.metrics["rmse"] == pytest.approx(measurement.samples["rmse"].mean())


def test_depth_metrics_of_a_case_solved_by_hand(depths):
    protocol = replace(find_protocol(depths), test_box=(0, 0, 320, 480))
    depth = np.array([[1, 2, 0, 9], [4, 6, 1, 1]], np.float32)  # 0 and 6 do not count
    predicted = np.array([[1.2, 3, 1, 1], [2, 1, 5, 5]], np.float32)
    found = evaluate_depth.image_metrics(depth, predicted, protocol)
    assert found["pixels"] == 3
    assert found["rmse"] == pytest.approx(np.sqrt((0.04 + 1 + 4) / 3))
    assert found["abs_rel"] == pytest.approx((0.2 + 0.5 + 0.5) / 3)
    assert [found[f"delta{n}"] for n in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    nothing = evaluate_depth.image_metrics(0 * depth, predicted, protocol)
    assert nothing.pop("pixels") == 0
    assert np.isnan(list(nothing.values())).all()


def test_the_depth_of_scores_is_a_mean_of_bins():
    protocol = DepthProbeProtocol(dataset="d", protocol_name="p", train="a", test="b", bins=3)
    scores = torch.tensor([-5.0, 0.4, 1.9]).view(1, 3, 1, 1)  # weights 0.1, 0.5 and 2
    expected = (0.1 * 0.001 + 0.5 * 5.0005 + 2 * 10) / 2.6
    assert evaluate_depth.depth_of(scores, protocol).item() == pytest.approx(expected)


def test_the_loss_of_depth_is_scale_invariant(depths, tiny_encoder):
    protocol = find_protocol(depths)
    model = evaluate_depth.DepthModel(tiny_encoder, protocol, "vanilla", OPTIONS)
    images = evaluate_depth._TrainingImages(model, (), lambda _: None)
    true = torch.tensor([[[1.0, 2.0]], [[4.0, 0.0]], [[1.0, 1.0]]])
    outputs = torch.tensor([[[[2.0, 2.0]]], [[[2.0, 9.0]]], [[[1.0, 3.0]]]])
    pairs = [np.log([2.001 / 1.001, 1, 2.001 / 4.001]), np.log([1, 3.001 / 1.001])]
    early = np.mean([np.sqrt(0.15 * g.mean() ** 2) for g in pairs])
    late = np.mean([np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2) for g in pairs])
    assert images.loss(outputs, true, 99).item() == pytest.approx(early, rel=1e-5)
    assert images.loss(outputs, true, 100).item() == pytest.approx(late, rel=1e-5)


def test_training_by_steps_lowers_the_error_and_repeats(tmp_path, tiny_encoder):
    write_depth_maps(tmp_path)

    def trained(iterations: int, warmup: int) -> Measurement:
        steps = f"iterations: {iterations}\nwarmup: {warmup}\nbatch: 4\nlearning_rate: 0.05"
        return measured(tiny_encoder, describe(tmp_path, DEPTH, more=steps))

    first, last = trained(1, 0), trained(60, 6)
    assert trained(1, 0).metrics == first.metrics
    assert last.metrics["rmse"] < 0.8 * first.metrics["rmse"]
    assert last.settings["dense_probe"] == {"solver": "AdamW, 60 steps", "training_images": 6}
    path = describe(tmp_path, DEPTH.replace("24, 32", "99, 32"), more=STEPS)
    with pytest.raises(UsageError, match="smaller than crops of 99 px: set `crop` lower"):
        measured(tiny_encoder, path)


def test_a_box_is_scaled_to_the_image():
    assert depth_maps.box_slices((320, 0, 640, 480), (24, 32)) == (slice(0, 24), slice(16, 32))
    # As NYU's boxes at the original size.
    box = protocols_of_dataset("nyu_depth")["ridge"].test_box
    assert depth_maps.box_slices(box, (480, 640)) == (slice(45, 471), slice(41, 601))


def break_list(root: Path, text: str) -> None:
    (root / "test.txt").write_text(text)


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
    break_list(tmp_path, text)
    with pytest.raises(SystemExit) as ended:
        main(["run", "--dataset", str(path), "--model", "scenes-cosmos", "--output", str(tmp_path)])
    assert ended.value.code == 2
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
def test_constants_that_contradict_each_other(more, fault, tmp_path):
    write_depth_maps(tmp_path)
    text = DEPTH.replace("test: test.txt\n", "") if more.startswith("test:") else DEPTH
    protocol = find_protocol(describe(tmp_path, text, more=more))
    with pytest.raises(UsageError, match="own: ") as raised:
        task_for(protocol).open_data(protocol, OPTIONS)
    assert fault in str(raised.value)


def test_known_sets_have_their_counts_and_both_protocols(tmp_path):
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
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 0


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
    padded = evaluate_depth.pad_to_patches(torch.ones(3, 8, 13), 8)
    assert padded.shape == (3, 8, 16)
    columns = padded[0, 0].tolist()
    assert [a != b for a, b in pairwise(columns)].count(True) == 2
    assert columns.index(1) == 1


def test_segmentation_loss_counts_pixels_without_a_class_as_0(maps, tiny_encoder):
    from cosmos_eval.tasks.dense_probe.evaluate_segmentation import _TrainingImages

    protocol = find_protocol(maps)
    images = _TrainingImages(tiny_encoder, protocol, "vanilla", (), OPTIONS, lambda _: None)
    logits = torch.randn(1, 3, 2, 2)
    classes = torch.tensor([[[0, 255], [2, 1]]])
    losses = [F.cross_entropy(logits[0, :, r, c], classes[0, r, c]) for r, c in ((0, 0), (1, 0))]
    losses.append(F.cross_entropy(logits[0, :, 1, 1], classes[0, 1, 1]))
    assert images.loss(logits, classes, 0).item() == pytest.approx(sum(losses).item() / 4)
