"""Data sets that YAML files of the package declare."""

from cosmos_eval.protocols.declared import fields_of, read_protocols


def test_braces_stand_for_paths_the_first_outermost_and_lists_are_joined() -> None:
    fields = {
        "images": "{.,coco}/{val,images/val}",
        "annotations": ["a.json", "b/{c,d}.json"],
        "classes": ["background", ["cat", "dog"]],
        "template": "a photo of {}",
    }
    assert fields_of(fields) == {
        "images": ("val", "images/val", "coco/val", "coco/images/val"),
        "annotations": ("a.json", "b/c.json", "b/d.json"),
        "classes": ("background", "cat", "dog"),
        "template": "a photo of {}",
    }


def test_one_path_stays_a_text() -> None:
    assert fields_of({"images": "svo_probes/images"}) == {"images": "svo_probes/images"}


def test_names_that_begin_with_a_point_are_no_data_sets() -> None:
    declared = read_protocols("selection", dict)
    assert declared["aro-relation"]["layout"] == "aro"  # of the entry `.aro`
    assert not [name for name in declared if name.startswith(".")]
