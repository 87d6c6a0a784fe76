"""A user's own data set: what a file says, and what is wrong with it."""

import json
from pathlib import Path

import pytest

from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import (
    ClassificationProtocol,
    LocalisationProtocol,
    RetrievalProtocol,
    SegmentationProtocol,
    SelectionProtocol,
    UsageError,
)

SEG = "kind: seg\nimages: images\nmasks: masks\n"
ONE = SEG + "classes: [a]\n"
CLS = "kind: cls\nfolder: a\n"
RETRIEVAL = "kind: retrieval\nimages: i\nannotations: c.json\n"
SELECT = "kind: select\nimages: i\nannotations: c\n"


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str, name: str = "mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return find_protocol(str(path))

    return read_text


def test_segmentation_with_defaults(read, tmp_path):
    text = SEG + "classes: [sky, {name: car, queries: [car, van]}, 'no']\nignore_index: 11\n"
    assert read(text) == SegmentationProtocol(
        dataset="mine",
        protocol_name="user",
        root=str(tmp_path),
        mmseg_type=None,
        images="images",
        masks="masks",
        class_names=("sky", "car", "no"),
        queries=(("sky",), ("car", "van"), ("no",)),
        ignore_index=11,
    )


def test_a_window_of_null_is_the_whole_image(read):
    assert read(SEG + "classes: [sky]\nwindow: null\n").window is None
    assert read(SEG + "classes: [sky]\n").window == 224


def test_every_constant_of_segmentation_can_be_set(read):
    constants = {
        **{"source": "somewhere", "split": "val.txt", "templates": ("a photo of a {}.",)},
        **{"image_suffix": ".png", "mask_suffix": "_ids.png", "reduce_zero_label": True},
        **{"short_side": 560, "long_side": 4096, "window": 448, "stride": 224, "scale": 65},
        **{"prob_thd": 0.1, "area_thd": 0.2, "attention": "naclip", "refinement": "pamr"},
        **{"mean": (1, 2.5, 3), "std": (4, 5, 6), "groups": {"things": ("car",)}},
    }
    text = json.dumps({"name": "streets", "classes": ["road", "car"], **constants})
    protocol = read(f"{{kind: seg, images: images, masks: masks, {text[1:]}")
    assert (protocol.dataset, protocol.class_names) == ("streets", ("road", "car"))
    assert {name: getattr(protocol, name) for name in constants} == constants


def test_classification_and_retrieval(read):
    cls = read("kind: cls\nfolder: photos\nclass_names: {n01: tench}\n", "a.yml")
    assert isinstance(cls, ClassificationProtocol)
    assert (cls.dataset, cls.folder, dict(cls.class_names)) == ("a", "photos", {"n01": "tench"})
    assert (cls.layout, cls.templates) == ("folders", None)
    for value, expected in (("5", 5), ("null", None)):
        retrieval = read(RETRIEVAL + f"captions_per_image: {value}\n")
        assert isinstance(retrieval, RetrievalProtocol)
        assert retrieval.captions_per_image == expected


def test_selection(read):
    items = read("kind: select\nimages: i\nannotations: items.csv\nlayout: items\n")
    assert isinstance(items, SelectionProtocol)
    assert (items.annotations, items.template, items.pair_accuracy) == ("items.csv", "{}", "group")
    pairs = read(
        SELECT + "layout: pairs\nimage_suffix: .png\n"
        "subset_key: tag\ntemplate: a photo of {}\npair_accuracy: image\n"
    )
    assert isinstance(pairs, SelectionProtocol)
    assert (pairs.layout, pairs.subset_key, pairs.pair_accuracy) == ("pairs", "tag", "image")


def test_every_field_of_retrieval_can_be_set(read):
    protocol = read(
        "{kind: retrieval, annotations: [a.tsv, b.tsv], images: [one, two], split: val, "
        "image_key: filepath, caption_key: title, source: somewhere}"
    )
    assert isinstance(protocol, RetrievalProtocol)
    assert (protocol.annotations, protocol.images) == (("a.tsv", "b.tsv"), ("one", "two"))
    keys = (protocol.split, protocol.image_key, protocol.caption_key)
    assert keys == ("val", "filepath", "title")
    protocol = read("{kind: retrieval, archives: 'shards/*.tar'}")
    assert isinstance(protocol, RetrievalProtocol)
    assert (protocol.archives, protocol.images) == ("shards/*.tar", ".")


def test_classes_in_a_file_are_a_line_each_with_their_prompts(read, tmp_path):
    (tmp_path / "names.txt").write_text("background\nperson, person in shirt\nship \n")
    protocol = read(SEG + "classes: names.txt\n")
    assert protocol.class_names == ("background", "person", "ship")
    assert protocol.queries == (("background",), ("person", "person in shirt"), ("ship",))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("sky\n\ncar\n", "line 2 is blank"),
        ("sky\ncar, , van\n", "line 2 .*has a blank prompt"),
        ("sky\ncar\nsky\n", "names 'sky' twice"),
        ("", "is empty"),
        (None, "cannot read"),
    ],
)
def test_faults_of_a_file_of_classes_are_named(read, tmp_path, lines, message):
    if lines is not None:
        (tmp_path / "names.txt").write_text(lines)
    with pytest.raises(UsageError, match=rf"mine\.yaml: `classes`.*{message}"):
        read(SEG + "classes: names.txt\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind: segg\n",
            "`kind` cannot be 'segg': give one of retrieval, cls, multilabel, faces, seg, select, ",
        ),
        ("images: a\n", "`kind` is missing: give one of"),
        ("", "must hold keys and values"),
        ("kind: [", "is not YAML"),
        ("kind: cls\n", "`folder` is missing"),
        (CLS + "classnames: {}\n", "unknown key `classnames`; .*class_names"),
        ("kind: cls\nfolder: 3\n", "`folder` must be text .*in quotes.*, not 3"),
        (CLS + "class_names: [a]\n", "`class_names` must map"),
        (CLS + "templates: []\n", "`templates` must have an entry"),
        (CLS + "templates: {cat: [a cat]}\n", "the same for all .*'cat'"),
        (
            CLS + "layout: tar\n",
            "`layout` must be 'folders', 'webdataset', 'obj.*' or 'sev.*', not 'tar'",
        ),
        (CLS + "torchvision: dtd\n", "unknown key `torchvision`"),
        (RETRIEVAL + "captions_per_image: x\n", "whole number"),
        (SELECT, "`layout` is missing"),
        (SELECT + "layout: triples\n", "`layout` must be 'items', 'pairs', .*not 'triples'"),
        ("kind: select\nimages: i\nn_items: 3\n", "unknown key `n_items`"),
        ("kind: retrieval\narchives: []\n", "`archives` must have an entry"),
        ("kind: retrieval\nn_images: 3\n", "unknown key `n_images`"),
        (SEG, "`classes` must list the class names"),
        (SEG + "classes: [sky, no]\n", r"`classes\[1\].name` must be text .*quotes.*, not False"),
        (SEG + "classes: [sky, sky]\n", "names 'sky' twice"),
        (SEG + "classes: [{queries: [a]}]\n", r"`classes\[0\].name` is missing"),
        (SEG + "classes: [{name: a, query: b}]\n", r"unknown key `classes\[0\].query`; .* queries"),
        (SEG + "classes: [{name: a, queries: []}]\n", r"`classes\[0\].queries` must have an entry"),
        (ONE + "scale: big\n", "`scale` must be a finite number"),
        (ONE + "scale: true\n", "`scale` must be a finite number .*, not True"),
        (ONE + "scale: .nan\n", "`scale` must be a finite number"),
        (ONE + "prob_thd: -.inf\n", "`prob_thd` must be a finite number"),
        (ONE + f"scale: {10**400}\n", "`scale` must be a finite number"),
        (ONE + "mean: [1, .nan, 2]\n", r"`mean\[1\]` must be a finite number"),
        (ONE + "std: [.inf, 1, 2]\n", r"`std\[0\]` must be a finite number"),
        (ONE + "mean: [1, no, 2]\n", r"`mean\[1\]` must be a finite number .*, not False"),
        (ONE + "window: -1\n", "`window` must be greater than or equal to 0, not -1"),
        (ONE + "window: 2.5\n", "`window` must be a whole number, not 2.5"),
        (ONE + "stride: yes\n", "`stride` must be a whole number, not True"),
        (ONE + "mean: [1, 2]\n", r"`mean\[2\]` is missing"),
        (ONE + "mean: [1, 2, 3, 4]\n", "`mean` .* at most 3 items"),
        ("kind: cls\nfoldr: a\n", "unknown key `foldr`; nearest known: folder"),
        (ONE + "refinement: crf\n", "`refinement` must be 'pamr', not 'crf'"),
        (ONE + "reduce_zero_label: 1\n", "`reduce_zero_label` must be a valid boolean"),
        (ONE + "ignore_label: 3\n", "unknown key `ignore_label`; .*ignore_index"),
        (ONE + "mmseg_type: X\n", "unknown key `mmseg_type`"),
        (ONE + "attention: scip\n", "`attention` must be 'vanilla', 'csa'"),
        (SEG + "classes: [car]\ngroups: {things: [cat]}\n", "names no class 'cat'; .*car"),
    ],
)
def test_what_is_wrong_is_named(read, text, message):
    with pytest.raises(UsageError, match=rf"mine\.yaml: .*{message}") as raised:
        read(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "protocol_type"),
    [
        ("kind: classification\nfolder: a\n", ClassificationProtocol),
        (ONE.replace("kind: seg", "kind: segmentation"), SegmentationProtocol),
        (f"{SELECT}layout: items\n".replace("kind: select", "kind: selection"), SelectionProtocol),
        (ONE.replace("kind: seg", "kind: localisation"), LocalisationProtocol),
    ],
)
def test_a_kind_may_be_a_full_word(read, text, protocol_type):
    assert type(read(text)) is protocol_type


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml: no such file"):
        find_protocol(str(tmp_path / "none.yaml"))


def test_unknown_names_list_the_nearest():
    with pytest.raises(UsageError, match="unknown data set 'scenes-sge'; nearest: scenes-seg"):
        find_protocol("scenes-sge")
