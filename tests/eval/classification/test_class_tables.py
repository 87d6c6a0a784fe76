"""Waterbirds and CelebA: images that tables list, the groups in them, and bad tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cosmos_eval.data.class_names import class_names
from cosmos_eval.data.classification import open_data
from cosmos_eval.protocols import find_known
from cosmos_eval.tasks import classification
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

# The columns of the original's metadata.csv. Landbirds are red here, and waterbirds blue.
BIRDS = """img_id,img_filename,y,split,place,place_filename
1,001.Albatross/a.jpg,1,2,1,/o/ocean/1.jpg
2,001.Albatross/b.jpg,1,0,1,/o/ocean/2.jpg
3,001.Albatross/c.jpg,1,2,0,/b/bamboo/3.jpg
4,002.Sparrow/d.jpg,0,2,0,/b/bamboo/4.jpg
5,002.Sparrow/e.jpg,0,2,1,/o/ocean/5.jpg
6,002.Sparrow/f.jpg,0,1,0,/b/bamboo/6.jpg
"""
# Waterbirds on land look like landbirds.
RED = ("001.Albatross/c.jpg", "002.Sparrow/d.jpg", "002.Sparrow/e.jpg")


@pytest.fixture
def waterbirds(tmp_path: Path, save_colour) -> Callable[..., ClassificationProtocol]:
    def make(table: str = BIRDS) -> ClassificationProtocol:
        folder = tmp_path / "waterbird_complete95_forest2water2"
        for line in BIRDS.splitlines()[1:]:
            name = line.split(",")[1]
            save_colour(folder / name, "red" if name in RED else "blue")
        (folder / "metadata.csv").write_text(table)
        protocol = find_known("waterbirds")
        assert isinstance(protocol, ClassificationProtocol)
        names = {"0": "red bird", "1": "blue bird"}
        return replace(protocol, root=str(tmp_path), class_names=names, n_images=4)

    return make


def test_waterbirds_by_hand(waterbirds, colour_encoder):
    result = classification.TASK.measure_one(colour_encoder, waterbirds(), RunOptions())
    names = ["001.Albatross/a.jpg", *RED]
    assert result.samples["name"].tolist() == names
    assert result.samples["labels"].tolist() == [1, 1, 0, 0]
    groups = {"y 0, place 0": 1, "y 0, place 1": 1, "y 1, place 0": 0, "y 1, place 1": 1}
    assert {name: result.metrics[f"acc1_{name}"] for name in groups} == groups
    assert (result.metrics["acc1"], result.metrics["worst_group_acc1"]) == (3 / 4, 0)


def test_celeba_joins_the_tables_of_attributes_and_splits(tmp_path, save_colour):
    folder = tmp_path / "celebA/data"
    attributes = "image_id,Bald,Blond_Hair,Male\n"
    splits = "image_id,partition\n"
    for number, (blond, male, split) in enumerate([(1, -1, 2), (-1, 1, 2), (1, 1, 0)], start=1):
        save_colour(folder / f"img_align_celeba/00000{number}.jpg", "red")
        attributes += f"00000{number}.jpg,-1,{blond},{male}\n"
        splits += f"00000{number}.jpg,{split}\n"
    (folder / "list_attr_celeba.csv").write_text(attributes)
    (folder / "list_eval_partition.csv").write_text(splits)
    celeba = replace(find_known("celeba"), root=str(tmp_path), n_images=2)
    data = open_data(celeba, RunOptions())
    assert data.names == ("000001.jpg", "000002.jpg")
    assert data.labels.tolist() == [1, 0]
    assert class_names(celeba, data) == ("dark", "blond")
    assert data.group_names == ("Blond_Hair -1, Male 1", "Blond_Hair 1, Male -1")
    (folder / "list_eval_partition.csv").write_text(splits.replace("000003", "000004"))
    with pytest.raises(UsageError, match=r"2 images are only listed there .*: 000003\.jpg$"):
        open_data(celeba, RunOptions())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Sparrow/d.jpg,0", "Sparrow/d.jpg,7", "has the label '7', which is not a class"),
        ("1,001.Alb", "1,,001.Alb", "line 2: "),
        ("place,", "ground,", "line 2: there is no `place`"),
        ("c.jpg", "a.jpg", "line 4: image 001.Albatross/a.jpg is listed twice"),
        (",2,", ",3,", "lists no image whose split is 2"),
        ("e.jpg", "x.jpg", "1 of 4 images are not there|1 of 4 .* not there, the first: .*x.jpg"),
        ("6,002.Sparrow/f.jpg,0,1", "6,002.Sparrow/f.jpg,0,2", "has 5 images, more than the 4"),
    ],
)
def test_bad_tables_are_refused(old, new, message, waterbirds):
    with pytest.raises(UsageError, match=message) as raised:
        open_data(waterbirds(BIRDS.replace(old, new)), RunOptions())
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("waterbirds: ")


def test_a_missing_table_is_one_line(waterbirds, tmp_path):
    protocol = waterbirds()
    (tmp_path / protocol.folder / "metadata.csv").unlink()
    with pytest.raises(UsageError, match=r"waterbirds: .*metadata\.csv: no such file"):
        open_data(protocol, RunOptions())


def test_imagenet_9_names_the_folders_in_their_order(tmp_path, save_colour):
    for number in range(9):
        save_colour(tmp_path / f"bg_challenge/mixed_rand/val/{number:02}_x/1.JPEG", "red")
    protocol = replace(find_known("imagenet-9/mixed_rand"), root=str(tmp_path), n_images=9)
    data = open_data(protocol, RunOptions())
    # in9_classes.txt of the original, in its order.
    assert class_names(protocol, data) == (
        *("dog", "bird", "vehicle", "reptile", "carnivore", "insect", "instrument", "primate"),
        "fish",
    )
    save_colour(tmp_path / "bg_challenge/mixed_rand/val/09_x/1.JPEG", "red")
    with pytest.raises(UsageError, match="has 10 classes, not the 9"):
        open_data(replace(protocol, n_images=10), RunOptions())
