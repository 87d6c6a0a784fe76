"""Units, shards and evidence of comparisons that may stop, from hand-solved cases."""

import math

import numpy as np
import pytest
from support.results import SAMPLES

from cosmos_eval.data.selection import SelectionData, select_items
from cosmos_eval.results import decisions
from cosmos_eval.results.decisions import (
    AsymptoticLooks,
    BoundedLooks,
    Units,
    begin_looks,
    cut_into_shards,
    deciding_estimate,
    shards_of_stopped,
    stopped_samples,
    stored_shards,
    units_of,
)
from cosmos_eval.results.text import decided_line, difference_and_interval
from cosmos_eval.stats.estimates import without
from cosmos_eval.stats.retrieval import ranks_of_images, retrieval_ranks
from cosmos_eval.stats.sampling import random_order
from cosmos_eval.stats.sequential import BoundedSequence
from cosmos_eval.tasks import known_tasks, task_named

STOPPING = [name for name, task in known_tasks().items() if task.can_stop and name in SAMPLES]
SELECTION = {
    "subset": np.zeros(6, np.int64),
    "subsets": np.array([""]),
    "averaged": np.array([True]),
    "cluster": np.array([5, 7, 5, 5, 9, 7]),
}


def test_the_tasks_that_can_stop():
    need_all_samples = ("loc", "probe", "ood", "seg-probe", "depth-probe", "ranking")
    stopping = {name for name, task in known_tasks().items() if task.can_stop}
    assert stopping >= {"cls", "faces", "multilabel", "seg", "retrieval", "select", "assoc"}
    assert "boxes" in stopping
    assert stopping.isdisjoint(need_all_samples)
    for name in need_all_samples:
        with pytest.raises(ValueError, match=f"task {name} needs all samples at once"):
            units_of(task_named(name), SAMPLES[name])


def test_units_are_clusters_and_shards_keep_them_whole():
    task = task_named("select")
    units = units_of(task, {**SELECTION, "correct": np.ones(6, bool)})
    assert units.unit_of_sample.tolist() == [0, 1, 0, 0, 2, 1]
    assert (units.n_samples, units.n_units, units.most) == (6, 3, 3)
    (shard,) = cut_into_shards(units, seed=0)
    items_of_unit = {0: [0, 2, 3], 1: [1, 5], 2: [4]}
    order = random_order(3, 0).tolist()
    assert shard.samples.tolist() == [item for unit in order for item in items_of_unit[unit]]
    assert shard.units.tolist() == [unit for unit in order for _ in items_of_unit[unit]]
    many = Units(np.repeat(np.arange(70), 2), decisions.BOUNDED)
    assert [len(shard.samples) for shard in cut_into_shards(many)] == [64, 64, 12]


def test_values_of_units_of_unequal_size():
    """A is right on items 0, 1, 2 and B on 5. Units have 3, 2 and 1 items, 2 on average."""
    task = task_named("select")
    a = {**SELECTION, "correct": np.array([1, 1, 1, 0, 0, 0], bool)}
    b = {**SELECTION, "correct": np.array([0, 0, 0, 0, 0, 1], bool)}
    units = units_of(task, b)
    looks = begin_looks(task, units)
    assert isinstance(looks, BoundedLooks)
    assert (looks.sequence.low, looks.sequence.high) == (-1.5, 1.5)
    (shard,) = stored_shards(task, units, a, b)
    assert looks.add(*shard)
    # By unit, A - B is 2, 1 - 1 and 0 items: 2 / 6 of all.
    assert looks.difference == pytest.approx(2 / 6)
    assert looks.is_complete
    plain = BoundedSequence(-1.5, 1.5)
    plain.update(np.array([2, 0, 0]) / 2)
    assert looks.look(0.05)[1:] == (max(-1, plain.interval(0.05)[0]), 1)


@pytest.mark.parametrize("name", STOPPING)
def test_parts_of_samples_join_to_the_samples(name):
    task, samples = task_named(name), SAMPLES[name]
    n_samples = task.count(samples)
    order = np.random.default_rng(1).permutation(n_samples)
    joined = task.join([task.take(samples, order[:1]), task.take(samples, order[1:])])
    back = task.take(joined, np.argsort(order))
    for array in back:
        np.testing.assert_array_equal(back[array], samples[array])
    value = deciding_estimate(task, samples).value
    assert deciding_estimate(task, joined).value == pytest.approx(value)


def test_images_of_a_segmentation_are_taken_with_their_pixels():
    task, samples = task_named("seg"), SAMPLES["seg"]
    taken = task.take(samples, np.array([1]))
    assert taken["name"].tolist() == ["b"]
    assert [taken[name].tolist() for name in ("image", "pair", "pixels")] == [
        [0, 0],
        [4, 8],
        [7, 1],
    ]
    estimate = deciding_estimate(task, samples)
    only = without(estimate, np.array([False, True]))
    assert deciding_estimate(task, taken).value == only.value
    assert task.class_sizes(samples).tolist() == [1, 1, 1]


def test_a_look_at_other_metrics_is_the_paired_difference_of_all_samples():
    """From `start` on, and then after every tenth more."""
    task = task_named("seg")
    rng = np.random.default_rng(0)
    n_images = 712
    image = np.repeat(np.arange(n_images), 4).astype(np.int32)
    base = {
        "name": np.array([str(number) for number in range(n_images)]),
        "classes": np.array(["sky", "cow"]),
        "groups": np.array([], str),
        "members": np.zeros((0, 2), bool),
        "image": image,
        "pair": np.tile(np.arange(4), n_images).astype(np.int32),
    }
    right = rng.integers(5, 10, (n_images, 2))
    wrong = {"a": rng.integers(0, 3, (n_images, 2)), "b": rng.integers(2, 5, (n_images, 2))}
    models = {}
    for model in wrong:
        # Of 10 labelled pixels of either class, some are taken for the other class.
        missed = np.minimum(wrong[model] + 10 - right, 10)
        pixels = np.stack([10 - missed[:, 0], missed[:, 0], missed[:, 1], 10 - missed[:, 1]], 1)
        models[model] = {**base, "pixels": pixels.ravel()}
    units = units_of(task, models["b"])
    assert (units.method, units.start) == (decisions.ASYMPTOTIC, 500)
    looks = AsymptoticLooks(task, n_images, start=40)
    order = random_order(n_images, 0)
    shards = stored_shards(task, units, models["a"], models["b"])
    n_at_last_look = 0
    for number, shard in enumerate(shards, start=1):
        n_samples = min(32 * number, n_images)
        has_grown = 10 * n_samples >= 11 * n_at_last_look
        is_due = n_samples >= 40 and (has_grown or n_samples == n_images)
        assert looks.add(*shard) is is_due
        if not is_due:
            continue
        n_at_last_look = n_samples
        ious = []
        for model in "ab":
            counts = models[model]["pixels"].reshape(n_images, 2, 2)[order[:n_samples]].sum(axis=0)
            union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
            ious.append((np.diag(counts) / union).mean())
        assert looks.difference == pytest.approx(ious[0] - ious[1])
        _, low, high = looks.look(0.05)
        assert low < looks.difference < high
    assert n_at_last_look == n_images < 32 * 23


def test_stored_samples_of_a_stopped_run_are_cut_at_the_same_looks():
    task = task_named("select")
    rng = np.random.default_rng(2)
    n_samples = 300
    truth = {
        "subset": np.zeros(n_samples, np.int64),
        "subsets": np.array([""]),
        "averaged": np.array([True]),
        "cluster": rng.integers(0, 90, n_samples),
    }
    a = {**truth, "correct": rng.random(n_samples) < 0.9}
    b = {**truth, "correct": rng.random(n_samples) < 0.7}
    units = units_of(task, b)
    measured = list(stored_shards(task, units, a, b))[:2]
    samples = stopped_samples(task, measured)
    again = list(shards_of_stopped(task, units.n_units, 0, samples))
    assert len(again) == 2
    for (a1, b1, u1), (a2, b2, u2) in zip(measured, again, strict=True):
        np.testing.assert_array_equal(a1["correct"], a2["correct"])
        np.testing.assert_array_equal(b1["correct"], b2["correct"])
        np.testing.assert_array_equal(u1, u2)
    with pytest.raises(ValueError, match="not in the order of seed 3"):
        list(shards_of_stopped(task, units.n_units, 3, samples))


def test_ranks_of_some_images_are_those_of_all():
    """Features are small whole numbers, so that many scores and features are equal."""
    rng = np.random.default_rng(0)
    images = rng.integers(-1, 2, (40, 3)).astype(np.float32)
    texts = rng.integers(-1, 2, (90, 3)).astype(np.float32)
    image_of_text = np.concatenate([np.arange(40), rng.integers(0, 40, 50)])
    ranks = retrieval_ranks(images, texts, image_of_text).image_to_text
    chosen = rng.permutation(40)[:17]
    ranks_of_chosen = ranks_of_images(images[chosen], texts, image_of_text, chosen)
    np.testing.assert_array_equal(ranks_of_chosen, ranks[chosen])
    assert len(set(ranks_of_chosen.tolist())) > 5


def test_selected_items_keep_their_images_and_captions():
    data = SelectionData(
        pictures=("a", "b", "c"),
        images=("A", "B", "C"),
        captions=("p", "q", "r", "s"),
        images_of_item=[np.array([0]), np.array([2, 1]), np.array([1])],
        captions_of_item=[np.array([0, 1]), np.array([3, 2]), np.array([1, 0])],
        n_correct_of_item=np.array([1, 2, 1]),
        subsets=("",),
        subset_of_item=np.array([0, 0, 0]),
        counts_in_mean=np.array([True]),
        groups={"pair": np.array([0, 0, -1])},
        asked={},
        chosen="captions",
    )
    items = select_items(data, np.array([1, 2]))
    assert items.images == ("B", "C")
    assert items.captions == ("p", "q", "r", "s")
    assert [images.tolist() for images in items.images_of_item] == [[1, 0], [0]]
    assert [captions.tolist() for captions in items.captions_of_item] == [[3, 2], [1, 0]]
    assert items.n_correct_of_item.tolist() == [2, 1]
    last = select_items(data, np.array([2]))
    assert (last.images, last.captions) == (("B",), ("p", "q"))
    assert last.captions_of_item[0].tolist() == [1, 0]


def test_lines_for_readers():
    assert difference_and_interval(0.0421, (0.0112, 0.0731)) == "+4.2 [1.1, 7.3]"
    # An end that is not 0 is not shown as 0.
    assert difference_and_interval(0.0421, (0.0002, 0.0731)) == "+4.21 [0.02, 7.31]"
    assert difference_and_interval(-0.5, (-1, -0.000001)) == "-50.0000 [-100.0000, -0.0001]"
    line = decided_line("scenes-cls", "A better", 0.042, (0.011, 0.073), 256, 1000, "images")
    assert line == "scenes-cls: A better, +4.2 [1.1, 7.3], after 256 of 1,000 images (26%)"
    line = decided_line("voc20", "undecided", math.nan, None, 96, 96, "images")
    assert line == "voc20: undecided, no interval, after 96 of 96 images (100%)"
