"""Where segmentation data are looked for, and which data are refused before inference."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.data.label_map_checks import check
from cosmos_eval.data.label_maps import open_data, read_label
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import RunOptions, UsageError

PARITY = Path(__file__).parents[2] / "parity"
VOC = RunOptions(data_root=str(PARITY / "voc"), allow_partial=True)
LAYOUTS = [("voc20", "voc"), ("voc21", "voc"), ("ade20k", "ade")]


@pytest.mark.parametrize(("dataset", "recorded"), LAYOUTS)
def test_the_root_or_its_usual_folder_holds_the_set(dataset, recorded, tmp_path):
    protocol = SEGMENTATION[dataset]
    assert protocol.usual_folder is not None
    shutil.copytree(PARITY / recorded, tmp_path / protocol.usual_folder)
    for root in (tmp_path, tmp_path / protocol.usual_folder):
        options = RunOptions(data_root=str(root), allow_partial=True)
        check(protocol, options)
        data = open_data(protocol, options)
        for sample in data.samples:
            assert sample.image.is_file()
            assert sample.mask.is_file()
        assert len(data.palette) == len(protocol.class_names)


def test_voc_samples_follow_the_list_and_its_first_ones_are_the_limit():
    data = open_data(SEGMENTATION["voc21"], VOC)
    listed_names = (PARITY / "voc/ImageSets/Segmentation/val.txt").read_text().split()
    assert [sample.name for sample in data.samples] == listed_names
    limited = open_data(SEGMENTATION["voc21"], replace(VOC, limit=2, allow_partial=False))
    assert [sample.name for sample in limited.samples] == listed_names[:2]


def test_reduced_labels_start_at_the_first_class():
    sample = open_data(SEGMENTATION["voc20"], VOC).samples[0]
    with Image.open(sample.mask) as image:
        raw = np.asarray(image).astype(int)
    expected = np.where((raw == 0) | (raw == 255), 255, raw - 1)
    assert (read_label(sample, SEGMENTATION["voc20"]) == expected).all()


def test_voc20_palette_is_vocs_without_the_background():
    assert open_data(SEGMENTATION["voc20"], VOC).palette[0] == (128, 0, 0)  # aeroplane
    assert open_data(SEGMENTATION["voc21"], VOC).palette[1] == (128, 0, 0)


def test_a_missing_root_says_what_was_expected(tmp_path):
    protocol = SEGMENTATION["voc20"]
    with pytest.raises(UsageError, match="--data-root DIR that holds JPEGImages"):
        check(protocol, RunOptions())
    usual = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages"
    with pytest.raises(UsageError) as error:
        check(protocol, RunOptions(data_root=str(tmp_path)))
    assert str(tmp_path / "JPEGImages") in str(error.value)
    assert str(usual) in str(error.value)


@pytest.fixture
def pets(tmp_path, write_set):
    """Root of a plain pair of folders with two images."""
    write_set(tmp_path, {"one": (20, 30), "sub/two": (25, 10)})
    return tmp_path


def test_a_plain_pair_of_folders_is_read_below_subfolders(pets, protocol):
    protocol_with_root = replace(protocol, root=str(pets))
    check(protocol_with_root, RunOptions(data_root="elsewhere"))
    samples = open_data(protocol_with_root, RunOptions()).samples
    assert [sample.name for sample in samples] == ["one", "sub/two"]


def test_a_link_to_a_parent_folder_is_refused_where_folders_are_walked(pets, protocol):
    """MMSegmentation would list every image again for each round through the link."""
    (pets / "images" / "again").symlink_to(pets / "images")
    assert "images/again is the same folder as" in refusal(protocol, pets)


def test_a_split_file_names_the_samples(pets, protocol):
    (pets / "list.txt").write_text("sub/two\n")
    options = RunOptions(data_root=str(pets))
    samples = open_data(replace(protocol, split="list.txt"), options).samples
    assert [sample.name for sample in samples] == ["sub/two"]


def refusal(protocol, root) -> str:
    """Return the line by which the check of a data set refuses it."""
    with pytest.raises(UsageError) as error:
        check(protocol, RunOptions(data_root=str(root), allow_partial=True))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_undeclared_class_is_named(pets, protocol):
    Image.fromarray(np.full((25, 10), 4, np.uint8)).save(pets / "masks/sub/two.png")
    message = refusal(protocol, pets)
    assert "two.png" in message
    assert "class 4" in message


def test_an_undeclared_class_is_named_as_the_file_has_it(tmp_path):
    shutil.copytree(PARITY / "voc", tmp_path / "voc")
    Image.new("L", (300, 300), color=21).save(tmp_path / "voc/SegmentationClass/2012_000003.png")
    for dataset in ("voc20", "voc21"):
        assert "2012_000003.png holds class 21" in refusal(SEGMENTATION[dataset], tmp_path / "voc")


def save_mask(root, format, mode="L", size=(30, 20), **options):
    """Replace the first label map by one of class 1 everywhere, in another format, mode or size."""
    colour = (1, 1, 1) if mode == "RGB" else 1
    Image.new(mode, size, colour).save(root / "masks/one.png", format, **options)


@pytest.mark.parametrize(("format", "options"), [("BMP", {}), ("TIFF", {"compression": "lzma"})])
def test_label_maps_of_other_lossless_formats_are_read(pets, protocol, format, options):
    save_mask(pets, format, **options)
    check(protocol, RunOptions(data_root=str(pets)))


def remove_mask(root):
    (root / "masks/one.png").unlink()


def replace_mask_by_text(root):
    (root / "masks/one.png").write_bytes(b"x")


def replace_image_by_text(root):
    (root / "images/one.png").write_bytes(b"x")


def cut_mask(root):
    path = root / "masks/one.png"
    path.write_bytes(path.read_bytes()[:-200])


def make_mask_higher(root):
    save_mask(root, "PNG", size=(30, 21))


def save_mask_of_16_bits(root):
    save_mask(root, "PNG", mode="I;16")


def save_mask_in_colour(root):
    save_mask(root, "PNG", mode="RGB")


def save_mask_as_jpeg(root):
    save_mask(root, "JPEG")


def save_mask_as_jpeg_2000(root):
    save_mask(root, "JPEG2000")


def save_mask_as_tiff_of_jpeg(root):
    save_mask(root, "TIFF", compression="jpeg")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_mask, "masks/one.png"),
        (replace_mask_by_text, "masks/one.png"),
        (replace_image_by_text, "images/one.png"),
        (make_mask_higher, "30x21"),
        (save_mask_of_16_bits, "8-bit"),
        (save_mask_in_colour, "8-bit"),
        (cut_mask, "masks/one.png"),
        (save_mask_as_jpeg, "one.png is a JPEG file, whose compression"),
        (save_mask_as_jpeg_2000, "one.png is a JPEG2000 file"),
        (save_mask_as_tiff_of_jpeg, "one.png is a TIFF file"),
    ],
)
def test_damaged_files_are_named(pets, protocol, damage, message):
    damage(pets)
    assert message in refusal(protocol, pets)


def test_turned_photographs_are_compared_as_displayed(pets, protocol):
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed after a quarter turn
    Image.new("RGB", (20, 30)).save(pets / "images/one.png", exif=exif)
    check(protocol, RunOptions(data_root=str(pets)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_suffix": ".tif"}, "no image *.tif"),
        ({"mmseg_type": "PascalVocDataset"}, "PascalVOCDataset"),  # the nearest
        ({"mmseg_type": "ADE20KDataset"}, "4 classes declared, ADE20KDataset has 150"),
    ],
)
def test_a_protocol_that_contradicts_the_data_is_refused(changes, message, pets, protocol):
    assert message in refusal(replace(protocol, **changes), pets)


@pytest.mark.parametrize(
    ("name", "reduces"), [("ade20k", "true"), ("cityscapes", "false"), ("voc21", "false")]
)
def test_reduce_zero_label_must_be_as_the_data_set_has_it(name, reduces, tmp_path):
    """The other way round, label maps would be read shifted by one class."""
    right_protocol = replace(SEGMENTATION[name], prob_thd=0.0, area_thd=None)
    split = right_protocol.split or right_protocol.images
    for folder in (right_protocol.images, right_protocol.masks, split):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    wrong_protocol = replace(right_protocol, reduce_zero_label=not right_protocol.reduce_zero_label)
    assert f"reduce_zero_label must be {reduces}" in refusal(wrong_protocol, tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"queries": (("a",),)}, "prompts for 1 classes"),
        ({"queries": (("a",), ("b",), (), ("c",))}, "class 'dog' has no prompt"),
        ({"class_names": ("cat", "cat", "dog", "grass")}, "same name"),
        ({"class_names": (), "queries": ()}, "0 classes"),
        ({"ignore_index": 3}, "ignore_index 3"),
        ({"ignore_index": 65536}, "ignore_index 65536"),
        ({"ignore_index": 4, "reduce_zero_label": True}, "must be that too"),
        ({"prob_thd": 0.1, "reduce_zero_label": True}, "background class"),
        ({"prob_thd": 0.1, "class_names": ("sky", "cat", "dog", "grass")}, "that is 'sky'"),
        ({"area_thd": 0.1, "class_names": ("sky", "cat", "dog", "grass")}, "that is 'sky'"),
        ({"class_names": ("background", "cat", " ", "grass")}, "blank name"),
        ({"queries": (("a",), ("b",), ("c", ""), ("d",))}, "blank name"),
        ({"stride": 0}, "stride must be above 0"),
        ({"stride": 33}, "must not exceed window"),
        ({"window": 0}, "window must be above 0"),
        ({"short_side": 0}, "short_side must be above 0"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be above 0"),
        ({"std": (1.0, float("nan"), 1.0)}, "std must be above 0 and finite"),
        ({"mean": (float("inf"), 0.0, 0.0)}, "mean must hold finite numbers"),
        ({"mean": (0.0, float("nan"), 0.0)}, "mean must hold finite numbers"),
        ({"scale": float("nan")}, "scale must be a finite number above 0"),
        ({"scale": float("inf")}, "scale must be a finite number above 0"),
        ({"scale": 0.0}, "scale must be a finite number above 0"),
        ({"prob_thd": float("nan")}, "in \\[0, 1\\)"),
        ({"area_thd": float("nan")}, "in \\[0, 1\\)"),
        ({"prob_thd": 1.0}, "in \\[0, 1\\)"),
        ({"area_thd": -0.1}, "in \\[0, 1\\)"),
    ],
)
def test_contradictory_constants_are_refused(pets, protocol, changes, complaint):
    with pytest.raises(UsageError, match=f"pets: .*{complaint}"):
        check(replace(protocol, **changes), RunOptions(data_root=str(pets)))
