"""Few shots by CoOp's rules: sets, split files, figures of hand-solved cases, and bad input."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.coop import COLOURS, base_items, draw_items, write_split
from support.one_set import write_photo
from support.probes import fit_sklearn

from cosmos_eval.data.class_names import class_names, read_prompt_names
from cosmos_eval.embedding.embed import embed_images
from cosmos_eval.protocols import find_known, protocols_of_dataset
from cosmos_eval.protocols.coop import COOP
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.suite import suite_score
from cosmos_eval.results.leaderboard.suite_means import mean_over
from cosmos_eval.runner.catalog import suites
from cosmos_eval.runner.suites import read_score
from cosmos_eval.tasks import find_protocol, probe, task_for
from cosmos_eval.tasks.probe import cache
from cosmos_eval.types import ProbeProtocol, RunOptions, SuiteMember, UsageError

# CUSTOM_TEMPLATES of trainers/zsclip.py; search_scale and init_alpha of Tip-Adapter's configs; the
# lengths of the lists in the split files.
SETS = {
    "imagenet": ("a photo of a {}.", (7, 3), 1.17, 1000, (1_281_167, 50_000)),
    "caltech101": ("a photo of a {}.", (12, 5), 3, 100, (4128, 1649, 2465)),
    "oxford_pets": ("a photo of a {}, a type of pet.", (7, 3), 1.17, 37, (2944, 736, 3669)),
    "stanford_cars": ("a photo of a {}.", (20, 10), 3, 196, (6509, 1635, 8041)),
    "oxford_flowers": (
        *("a photo of a {}, a type of flower.", (50, 50), 10, 102),
        (4093, 1633, 2463),
    ),
    "food101": ("a photo of {}, a type of food.", (10, 10), 1.17, 101, (50_500, 20_200, 30_300)),
    "fgvc_aircraft": (
        *("a photo of a {}, a type of aircraft.", (30, 30), 5, 100),
        (3334, 3333, 3333),
    ),
    "sun397": ("a photo of a {}.", (12, 10), 1.17, 397, (15_880, 3970, 19_850)),
    "dtd": ("{} texture.", (13, 13), 2, 47, (2820, 1128, 1692)),
    "eurosat": ("a centered satellite photo of {}.", (12, 10), 2, 10, (13_500, 5400, 8100)),
    "ucf101": ("a photo of a person doing {}.", (7, 3), 3, 101, (7639, 1898, 3783)),
}
YAML = "kind: probe\nsplit_file: split.json\nimages: photos\nshots: [1, 4]\nc_values: [1, 100]\n"


@pytest.mark.parametrize("name", SETS)
def test_a_known_set_is_as_published(name):
    template, search, alpha, n_classes, n_images = SETS[name]
    protocol = COOP[f"coop/{name}"]
    assert (protocol.shots, protocol.draws) == ((1, 2, 4, 8, 16), 3)
    assert (protocol.cache_search, protocol.cache_alpha, protocol.cache_beta) == (search, alpha, 1)
    assert tuple(split.n_images for split in protocol.splits) == n_images
    for split in protocol.splits:
        assert (split.templates, split.n_classes) == ((template,), n_classes)
    has_validation = len(n_images) == 3
    splits = ["train", "val", "test"] if has_validation else ["train", "test"]
    assert [split.split for split in protocol.splits] == splits
    ten = protocols_of_dataset(f"coop/{name}")["coop-10-seeds"]
    assert replace(ten, protocol_name="coop", draws=3) == protocol
    assert (ten.protocol_name, ten.draws) == ("coop-10-seeds", 10)


def test_the_sets_are_eleven():
    assert [*COOP] == [f"coop/{name}" for name in SETS]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four classes, and fewer candidates of the constants of a cache, which take long."""
    monkeypatch.setattr(cache, "BETAS", 10)
    monkeypatch.setattr(cache, "ALPHAS", 4)
    (tmp_path / "photos.yaml").write_text(YAML)
    write_split(tmp_path)
    return tmp_path


def test_a_split_is_read_in_its_order(photos):
    split = json.loads((photos / "split.json").read_text())
    protocol = find_protocol(photos / "photos.yaml")
    data = probe.TASK.open_data(protocol, RunOptions())
    assert data.test.classes == ("a_red", "b_green", "c_blue", "d_grey")
    for items, opened in ((split["val"], data.validation), (split["test"], data.test)):
        assert opened.names == tuple(path for path, _, _ in items)
        assert opened.labels.tolist() == [label for _, label, _ in items]
    (splits,) = [probe.coop.known_splits(protocol)]
    assert class_names(splits["test"], data.test) == ("a red", "b green", "c blue", "d grey")


def test_figures_of_made_up_photos(photos, colour_encoder):
    """The encoder sees colours. Two of 16 test images are not of their class's colour."""
    write_photo(photos / "photos/test_0/0.png", COLOURS[1])  # red, among base classes
    write_photo(photos / "photos/test_2/0.png", (200, 200, 200))  # blue, among new classes
    protocol = find_protocol(photos / "photos.yaml")
    measurement = probe.TASK.measure_one(colour_encoder, protocol, RunOptions(workers=0))
    metrics = measurement.metrics
    assert measurement.n_samples == 16
    assert metrics["zero_shot_acc1"] == 14 / 16
    assert metrics["zero_shot_base_acc1"] == metrics["zero_shot_new_acc1"] == 7 / 8
    assert metrics["zero_shot_harmonic_mean"] == pytest.approx(7 / 8)
    for kind in ("linear_probe", "cache"):
        assert metrics[f"{kind}_4_acc1"] == 14 / 16
        assert metrics[f"{kind}_4_base_acc1"] == 7 / 8
    assert metrics["cache_1_harmonic_mean"] == pytest.approx(7 / 8)
    prefixes = ("linear_probe", "cache", "zero_shot")
    assert {name for name in metrics if not name.startswith(prefixes)} == set()
    record = measurement.settings["coop"]
    assert record["draw_seeds"] == [1, 2, 3]
    assert record["validation_images"] == 12
    assert [*record["cache_beta"]] == ["1", "4"]
    assert len(record["linear_probe_base_C"]["4"]) == 3


def test_linear_probes_are_scikit_learns_on_the_draws(photos, colour_encoder):
    """Photos of noisy colours, which few shots confuse."""
    rng = np.random.default_rng(0)
    split = json.loads((photos / "split.json").read_text())
    for path, label, _ in [item for items in split.values() for item in items]:
        noisy = np.clip(COLOURS[label] + rng.normal(0, 80, 3), 0, 255).astype(int)
        write_photo(photos / "photos" / path, tuple(noisy.tolist()))
    protocol = find_protocol(photos / "photos.yaml")
    options = RunOptions(workers=0)
    measurement = probe.TASK.measure_one(colour_encoder, protocol, options)

    def embedded(items):
        images = [photos_by_name[path] for path, _, _ in items]
        return embed_images(colour_encoder, images, options).features

    data = probe.TASK.open_data(protocol, options)
    photos_by_name = {}
    for images in (data.train, data.validation, data.test):
        photos_by_name.update(zip(images.names, images.images, strict=True))
    for row, shots in enumerate((1, 4)):
        for column, seed in enumerate((1, 2, 3)):
            train, _ = draw_items(split["train"], split["val"], shots, seed)
            for kind, choose in (("", list), ("_base", base_items)):
                drawn, tested = choose(train), choose(split["test"])
                labels = np.array([label for _, label, _ in drawn])
                c = measurement.settings["coop"][f"linear_probe{kind}_C"][str(shots)][column]
                expected = fit_sklearn(embedded(drawn), labels, c).predict(embedded(tested))
                truth = [label for _, label, _ in tested]
                correct = measurement.samples[f"linear_probe{kind}_correct"][row, :, column]
                assert (correct == (expected == truth)).mean() >= 0.9
    assert 0.3 < measurement.metrics["linear_probe_4_acc1"] < 1


def make_samples() -> dict[str, np.ndarray]:
    """Four images of the base classes 0 and 1, two of the new class 2, none of 3; two draws."""
    cache_base = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], bool)
    return {
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "classes": np.array(list("abcd")),
        "shots": np.array([16]),
        "zero_shot": np.array([0, 2, 2, 0, 1, 1]),
        "zero_shot_in_half": np.array([0, 1, 2, 0, 0, 3]),
        "linear_probe_correct": np.ones((1, 6, 2), bool),
        "linear_probe_base_correct": np.ones((1, 4, 2), bool),
        "cache_correct": np.ones((1, 6, 2), bool),
        "cache_base_correct": cache_base[None],
    }


def test_hand_solved_figures():
    metrics = probe.TASK.figures(make_samples(), 0).metrics
    assert metrics["zero_shot_acc1"] == pytest.approx(4 / 6)
    assert metrics["zero_shot_base_acc1"] == 3 / 4
    assert metrics["zero_shot_new_acc1"] == 1 / 2
    assert metrics["zero_shot_harmonic_mean"] == pytest.approx(0.6)  # 2 * 3/8 / (5/4)
    assert metrics["cache_16_base_acc1"] == 5 / 8
    assert metrics["cache_16_harmonic_mean"] == pytest.approx(5 / 9)  # 2 * 5/16 / (9/8)
    assert metrics["linear_probe_16_acc1"] == 1
    nothing_right = make_samples()
    nothing_right["zero_shot_in_half"] = np.array([1, 0, 3, 1, 0, 3])
    assert probe.TASK.figures(nothing_right, 0).metrics["zero_shot_harmonic_mean"] == 0


def test_a_half_without_images_has_no_figure():
    samples = make_samples()
    is_base = samples["labels"] < 2
    for name in ("labels", "zero_shot", "zero_shot_in_half"):
        samples[name] = samples[name][is_base]
    metrics = probe.TASK.figures(samples, 0).metrics
    assert "zero_shot_base_acc1" in metrics
    assert not {"zero_shot_new_acc1", "zero_shot_harmonic_mean"} & {*metrics}
    assert "cache_16_harmonic_mean" not in metrics


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("cache_correct", None, "there is no array `cache_correct`"),
        ("linear_probe_base_correct", np.ones((1, 3, 2), bool), "3 images of base|not 3"),
        ("zero_shot_in_half", np.array([0, 1, 2, 0, 3, 3]), "a class of the other half"),
        ("zero_shot", np.array([0, 2, 2, 0, 1, 9]), "its values are 0 to 3"),
    ],
)
def test_impossible_samples_are_refused(name, array, message):
    samples = make_samples()
    probe.TASK.require_valid(samples, {})
    del samples[name]
    if array is not None:
        samples[name] = array
    with pytest.raises(ValueError, match=message):
        probe.TASK.require_valid(samples, {})


def test_a_run_is_verified_and_encodes_each_image_once(photos, command):
    run = ("run", "--model", "scenes-clip", "--dataset", "photos.yaml", "--output")
    for output in ("one", "two"):
        ended = command(*run, output)
        assert ended.status == 0, ended.err
    first, second = (
        json.loads(next(Path(name).glob("*.json")).read_text()) for name in ("one", "two")
    )
    assert first["metrics"] == second["metrics"]
    assert first["provenance"]["images_per_second"] is not None
    assert second["provenance"]["images_per_second"] is None
    assert "2 verified" in command("verify", "one", "two").out


# A split, an entry that is added to it (None: the split is removed; a mapping replaces it), and the
# message.
FAULTS = {
    "no split": ("val", None, "expected `train`, `val` and `test`"),
    "no list": ("val", {}, "val: expected a list"),
    "an entry": ("test", ["a.png", "1", "x"], r"test: entry 17 must be \[path"),
    "another name": ("val", ["a.png", 1, "x"], "class 1 is called b_green and x"),
    "twice": ("test", ["train_2/0.png", 2, "c_blue"], "image train_2/0.png is listed twice"),
    "no training image": ("test", ["a.png", 5, "x"], "train: class 4 has no image"),
    "no file": (
        *("val", ["a.png", 1, "b_green"]),
        "1 of 13 validation images are not there, the first: .*a.png",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_split_files_are_one_line(photos, fault):
    name, entry, message = FAULTS[fault]
    split = json.loads((photos / "split.json").read_text())
    if isinstance(entry, list):
        split[name].append(entry)
    else:
        split = {**split, name: entry} if entry is not None else {"train": [], "test": []}
    (photos / "split.json").write_text(json.dumps(split))
    with pytest.raises(UsageError, match=message) as raised:
        probe.TASK.open_data(find_protocol(photos / "photos.yaml"), RunOptions())
    assert "\n" not in str(raised.value)


def test_bad_input_is_status_2(photos, command):
    run = ("run", "--model", "scenes-clip", "--dataset", "photos.yaml")
    (photos / "photos.yaml").write_text(YAML + "train: photos\n")
    ended = command(*run)
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)
    assert "give train and test, or split_file, not both" in ended.err
    (photos / "photos.yaml").write_text("kind: probe\ntest: photos\n")
    assert "give train and test, the folders of images, or split_file" in command(*run).err
    (photos / "photos.yaml").write_text(YAML.replace("split.json", "lost.json"))
    assert "expected the list of its splits at one of" in command(*run).err
    ended = command(*run[:3], "--dataset", "coop/dtd", "--data-root", ".")
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)
    assert "coop/dtd: expected one of" in ended.err


def test_counts_of_a_known_set_are_checked(tmp_path):
    split = write_split(tmp_path)
    (tmp_path / "dtd").mkdir()
    (tmp_path / "photos").rename(tmp_path / "dtd/images")
    (tmp_path / "split.json").rename(tmp_path / "dtd/split_zhou_DescribableTextures.json")
    protocol = COOP["coop/dtd"]
    assert task_for(protocol).is_there(protocol, tmp_path)
    options = RunOptions(data_root=str(tmp_path))
    with pytest.raises(UsageError, match="has 4 classes, not the 47"):
        probe.TASK.open_data(protocol, options)
    few_classes = tuple(replace(entry, n_classes=4) for entry in protocol.splits)
    with pytest.raises(UsageError, match=r"has 20 of 2820 .*; a probe needs all training images$"):
        probe.TASK.open_data(replace(protocol, splits=few_classes), options)
    few_images = tuple(
        replace(entry, n_images=len(items))
        for entry, items in zip(few_classes, split.values(), strict=True)
    )
    data = probe.TASK.open_data(replace(protocol, splits=few_images), options)
    assert len(data.test.images) == 16


def test_aircraft_are_read_from_their_own_lists(tmp_path):
    folder = tmp_path / "fgvc_aircraft"
    for number in range(9):
        write_photo(folder / f"images/{number:07d}.jpg", (number, 0, 0))
    (folder / "variants.txt").write_text("707-320\nF/A-18\nAn-12\nModel B200\n")
    names = ("Model B200", "707-320", "F/A-18", "An-12")
    for first, split in ((0, "train"), (4, "val"), (5, "test")):
        names_in_list = names[1:2] if split == "val" else names
        lines = [f"{first + i:07d} {name}\n" for i, name in enumerate(names_in_list)]
        (folder / f"images_variant_{split}.txt").write_text("".join(lines))
    protocol = COOP["coop/fgvc_aircraft"]
    splits = tuple(
        replace(split, n_images=n, n_classes=4)
        for split, n in zip(protocol.splits, (4, 1, 4), strict=True)
    )
    options = RunOptions(data_root=str(tmp_path))
    data = probe.TASK.open_data(replace(protocol, splits=splits), options)
    assert data.test.names == tuple(f"{number:07d}.jpg" for number in range(5, 9))
    assert data.test.labels.tolist() == [3, 0, 1, 2]
    assert data.validation.labels.tolist() == [0]
    (folder / "images_variant_val.txt").write_text("0000004 Concorde\n")
    with pytest.raises(UsageError, match=r"val.txt: line 1: Concorde is not in variants.txt$"):
        probe.TASK.open_data(replace(protocol, splits=splits), options)


def test_imagenet_has_no_validation_images(tmp_path, save_colour, colour_encoder):
    """Constants of the cache are then the published ones, and C is chosen by training images."""
    for split, number in (("train", 3), ("val", 1)):
        for name in ("red", "green", "blue", "red2"):
            for index in range(number):
                path = tmp_path / "imagenet" / split / name / f"{index}.png"
                save_colour(path, name.removesuffix("2"))
    protocol = COOP["coop/imagenet"]
    splits = tuple(
        replace(split, class_list=None, n_classes=4, n_images=n)
        for split, n in zip(protocol.splits, (12, 4), strict=True)
    )
    small = replace(protocol, splits=splits, shots=(1,), c_values=(1.0,))
    options = RunOptions(data_root=str(tmp_path), workers=0)
    measurement = probe.TASK.measure_one(colour_encoder, small, options)
    record = measurement.settings["coop"]
    assert record["cache_alpha"] == {"1": [1.17] * 3}
    assert record["cache_beta"] == {"1": [1.0] * 3}
    assert record["validation_images"] == 0
    assert any(note.startswith("no validation images") for note in measurement.notes)
    # The names of CoOp's classnames.txt are those of this list.
    assert protocol.splits[1].class_list == "imagenet1k"
    assert len(read_prompt_names("imagenet1k")) == 1000


def test_fewer_than_four_classes_are_refused(photos):
    split = json.loads((photos / "split.json").read_text())
    three = {name: [item for item in items if item[1] < 3] for name, items in split.items()}
    (photos / "split.json").write_text(json.dumps(three))
    with pytest.raises(UsageError, match=r"photos has 3 classes: base and new classes need two"):
        probe.TASK.open_data(find_protocol(photos / "photos.yaml"), RunOptions())


MEMBERS = [SuiteMember("probe", name, "coop", ("a", "b")) for name in ("x", "y")]


def test_the_harmonic_mean_is_of_the_means():
    values = [np.array([0.4, 0.8]), np.array([0.8, 0.8])]
    assert mean_over(values, MEMBERS, is_harmonic=False) == pytest.approx(0.7)
    assert mean_over(values, MEMBERS, is_harmonic=True) == pytest.approx(2 * 0.48 / 1.4)
    zero = [np.array([0.0, 0.8]), np.array([0.0, 0.8])]
    assert mean_over(zero, MEMBERS, is_harmonic=True) == 0


def test_suites_average_over_the_eleven_sets():
    metrics = {
        "coop": ("zero_shot_acc1",),
        "coop-16-shots": ("cache_16_acc1",),
        "coop-base-to-new": ("zero_shot_base_acc1", "zero_shot_new_acc1"),
    }
    for name, expected in metrics.items():
        suite = read_score(name)
        assert [member.dataset for member in suite.members] == [*COOP]
        assert {member.metrics for member in suite.members} == {expected}
    listed = {record["suite"]: record["score"] for record in suites()}
    assert listed["coop-base-to-new"].startswith("harmonic mean of zero_shot_base_acc1 and")
    # CLIP ViT-B/16 has 69.34 on base and 74.22 on new classes, and H 71.70 (CoCoOp, table 1).
    entries = [
        Entry(
            *("a model", "probe", member.dataset, "coop"),
            metrics={
                "zero_shot_base_acc1": 0.6934 + 0.01 * (index - 5),
                "zero_shot_new_acc1": 0.7422 + 0.02 * (5 - index),
            },
            intervals={},
            source="published",
        )
        for index, member in enumerate(read_score("coop-base-to-new").members)
    ]
    score = suite_score(read_score("coop-base-to-new"), entries)
    assert score.rows[0].mean.value == pytest.approx(0.7170, abs=5e-5)
    assert "Mean: harmonic, of the means over all 11 members" in score.notes[0]


def test_a_harmonic_mean_and_a_metric_are_refused(tmp_path):
    path = tmp_path / "own.yaml"
    names = "[zero_shot_base_acc1, zero_shot_new_acc1]"
    text = (
        f"datasets: {{coop: [coop/dtd]}}\nscore: {{metric: linear_acc1, harmonic_mean: {names}}}\n"
    )
    path.write_text(text)
    with pytest.raises(UsageError, match="give `harmonic_mean`, or `metric` and `metrics`"):
        read_score(str(path))
    path.write_text(text.replace("metric: linear_acc1, ", "").replace("new_acc1", "old_acc1"))
    with pytest.raises(UsageError, match="no metric 'zero_shot_old_acc1'; probe has zero_shot"):
        read_score(str(path))


def test_the_search_sees_no_test_image(photos, colour_encoder):
    """Other test labels change what is measured, and no constant that is chosen."""
    measurements = []
    for _ in range(2):
        protocol = find_protocol(photos / "photos.yaml")
        assert isinstance(protocol, ProbeProtocol)
        options = RunOptions(workers=0)
        measurements.append(probe.TASK.measure_one(colour_encoder, protocol, options))
        split = json.loads((photos / "split.json").read_text())
        names = {label: name for _, label, name in split["train"]}
        moved = [(path, (label + 1) % 4) for path, label, _ in split["test"]]
        split["test"] = [(path, label, names[label]) for path, label in moved]
        assert Counter(label for _, label, _ in split["test"]) == dict.fromkeys(range(4), 4)
        (photos / "split.json").write_text(json.dumps(split))
    first, second = measurements
    assert first.settings["coop"] == second.settings["coop"]
    assert first.metrics["cache_4_acc1"] != second.metrics["cache_4_acc1"]


def test_the_protocols_are_found_by_name():
    assert find_known("coop/dtd", "coop-10-seeds").draws == 10


@pytest.mark.parametrize("split_name", ["val", "test"])
def test_a_split_without_base_classes_is_refused(split_name, photos):
    """An empty one as well. Constants and accuracies among base classes would have no images."""
    path = photos / "split.json"
    split = json.loads(path.read_text())
    of_new_classes = [item for item in split[split_name] if item[1] >= 2]
    for items in (of_new_classes, []):
        path.write_text(json.dumps({**split, split_name: items}))
        message = f"photos: the split `{split_name}` needs an image of the first 2 classes"
        with pytest.raises(UsageError, match=message):
            probe.TASK.open_data(find_protocol(photos / "photos.yaml"), RunOptions())
