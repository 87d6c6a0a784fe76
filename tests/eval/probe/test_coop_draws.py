"""Few shots as CoOp draws them: against the plain rule, and against published draws."""

from __future__ import annotations

import random

import numpy as np
import pytest
from support.coop import Item, base_items, draw_items

from cosmos_eval.data.class_names import make_data
from cosmos_eval.tasks.probe import coop
from cosmos_eval.tasks.probe.draws import count_base_classes, draw_shots
from cosmos_eval.types import ProbeProtocol

# Training and validation images of EuroSAT's classes, in the order of split_zhou_EuroSAT.json.
EUROSAT = (1500, 1500, 1500, 1250, 1250, 1000, 1250, 1500, 1250, 1500)
EUROSAT_VALIDATION = tuple(size * 2 // 5 for size in EUROSAT)
# indices/eurosat/shot_1-seed_SEED.json of github.com/linzhiqiu/cross_modal_adaptation at ac9077e,
# whose splits and rule are CoOp's.
PUBLISHED = {
    1: (
        [275, 2665, 3129, 5022, 5991, 7507, 8920, 10217, 11527, 12429],
        [96, 1099, 1229, 2257, 2727, 2999, 3421, 3702, 4656, 5256],
    ),
    2: (
        [115, 1687, 3173, 5239, 6096, 7753, 8631, 9765, 11990, 12434],
        [36, 1195, 1362, 2020, 2626, 3001, 3611, 4221, 4786, 5180],
    ),
    3: (
        [487, 2713, 4114, 4767, 6507, 7937, 9236, 10220, 11939, 12134],
        [13, 1080, 1465, 2082, 2419, 2898, 3567, 4181, 4576, 5362],
    ),
}
# The end of indices/eurosat/shot_16-seed_3.json there: the last class.
PUBLISHED_16 = (
    "12616 12895 12528 13067 12620 13123 12694 12023 12850 13187 12644 12041 12771 13261 13206 "
    "13294",
    [5312, 5027, 5075, 5044],
)


def make_items(split: str, least: int, most: int) -> list[Item]:
    """Items of seven classes of different sizes, in no order."""
    numbers = random.Random(split)
    items = []
    for label in range(7):
        for number in range(numbers.randint(least, most)):
            items.append((f"{split}/{label}/{number}", label, f"class {label}"))
    numbers.shuffle(items)
    return items


TRAIN, VALIDATION = make_items("train", 3, 20), make_items("val", 2, 6)


def labels_of(items: list[Item]) -> np.ndarray:
    return np.array([label for _, label, _ in items])


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_a_draw_is_that_of_the_plain_rule(shots, seed):
    drawn = draw_shots(labels_of(TRAIN), labels_of(VALIDATION), shots, seed)
    train, validation = draw_items(TRAIN, VALIDATION, shots, seed)
    assert [TRAIN[row] for row in drawn.training_rows] == train
    assert [VALIDATION[row] for row in drawn.held_out_rows] == validation
    smallest = min(np.bincount(labels_of(TRAIN)))
    assert smallest < 8  # of which 8 shots take all images
    assert min(np.bincount(labels_of(train))) == min(shots, smallest)


@pytest.mark.parametrize("seed", PUBLISHED)
def test_published_draws_of_eurosat(seed):
    train, validation = (np.repeat(np.arange(10), n) for n in (EUROSAT, EUROSAT_VALIDATION))
    drawn = draw_shots(train, validation, 1, seed)
    assert (drawn.training_rows.tolist(), drawn.held_out_rows.tolist()) == PUBLISHED[seed]
    drawn = draw_shots(train, validation, 16, 3)
    last_rows = " ".join(map(str, drawn.training_rows[-16:]))
    assert (last_rows, drawn.held_out_rows[-4:].tolist()) == PUBLISHED_16


def test_without_validation_images_other_training_images_are_held_out():
    labels = np.repeat(np.arange(3), 30)
    drawn = draw_shots(labels, None, 8, 1)
    assert np.bincount(labels[drawn.training_rows]).tolist() == [8, 8, 8]
    assert np.bincount(labels[drawn.held_out_rows]).tolist() == [4, 4, 4]
    assert not {*drawn.training_rows} & {*drawn.held_out_rows}
    # The training images do not depend on what is held out.
    assert np.array_equal(drawn.training_rows, draw_shots(labels, labels, 8, 1).training_rows)


@pytest.mark.parametrize("has_validation", [True, False])
def test_only_drawn_images_are_kept_and_rows_name_them(has_validation):
    def data_of(items):
        return make_data("abcdefg", [(path, None, label) for path, label, _ in items])

    protocol = ProbeProtocol(dataset="a", protocol_name="user", is_coop=True, shots=(1, 4), draws=2)
    validation = data_of(VALIDATION) if has_validation else None
    data = coop.draw_data(protocol, data_of(TRAIN), validation, data_of(VALIDATION))
    held_out_from = data.validation if has_validation else data.train
    drawn_names = set()
    for shots, draws in zip(protocol.shots, data.draws, strict=True):
        for seed, drawn in zip((1, 2), draws, strict=True):
            train, held_out = draw_items(TRAIN, VALIDATION, shots, seed)
            names = [data.train.names[row] for row in drawn.training_rows]
            assert names == [path for path, _, _ in train]
            other_names = [held_out_from.names[row] for row in drawn.held_out_rows]
            drawn_names |= {*names, *([] if has_validation else other_names)}
            if has_validation:
                assert other_names == [path for path, _, _ in held_out]
    assert {*data.train.names} == drawn_names
    assert len(drawn_names) < len(TRAIN)


def test_base_classes_are_divided_after_the_draw():
    """An odd number of classes: four are base classes, and three are new."""
    assert count_base_classes(7) == 4
    train, validation = draw_items(TRAIN, VALIDATION, 2, 1)
    drawn = draw_shots(labels_of(TRAIN), labels_of(VALIDATION), 2, 1)
    n_train = len(TRAIN)
    labels = np.concatenate([labels_of(TRAIN), labels_of(VALIDATION)])
    features = np.arange(len(labels), dtype=np.float32)[:, None]  # by which rows are known
    problem = coop.Problem(
        features,
        labels,
        np.arange(n_train, len(labels)),
        np.zeros((2, 1), np.float32),
        np.eye(7, dtype=np.float32),
        [[drawn._replace(held_out_rows=drawn.held_out_rows + n_train)]],
    )
    base = problem.of_base_classes(np.array([3, 4]))
    assert (len(base.class_embeddings), len(base.test_features)) == (4, 1)
    ((base_drawn,),) = base.draws
    items = [*TRAIN, *VALIDATION]
    for rows, expected in (
        (base_drawn.training_rows, base_items(train)),
        (base_drawn.held_out_rows, base_items(validation)),
        (base.validation_rows, base_items(VALIDATION)),
    ):
        assert [items[int(row)] for row in base.features[rows, 0]] == expected
        assert base.labels[rows].tolist() == [label for _, label, _ in expected]
