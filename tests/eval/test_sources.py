"""Images from files, archives, arrays and parts of others; samples of webdataset archives."""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from cosmos_eval.sources import (
    ArchiveMember,
    CroppedImage,
    ImageArray,
    ImageFile,
    ImageSource,
    ShownImage,
)
from cosmos_eval.tasks.archives import open_archives
from cosmos_eval.types import UsageError


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def decoded(source: ImageSource) -> np.ndarray:
    return np.asarray(source.decode(source.read()))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two archives as webdataset writes them, three samples and one."""
    pattern = str(tmp_path / "%d.tar")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as sink:
        for number in range(4):
            content = io.BytesIO()
            Image.fromarray(pixels() + np.uint8(number)).save(content, "PNG")
            sink.write({"__key__": f"s{number}", "png": content.getvalue(), "cls": number})
    return [tmp_path / "0.tar", tmp_path / "1.tar"]


def test_the_same_pixels_from_everywhere(shards: list[Path], tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    file = ImageFile(tmp_path / "a.png")
    member = open_archives(shards)[0].image()
    for source in (file, member, ImageArray("array", pixels())):
        np.testing.assert_array_equal(decoded(source), pixels())
    assert file.read() == member.read()
    box = CroppedImage(file, (1, 2, 6, 5))
    np.testing.assert_array_equal(decoded(box), pixels()[2:5, 1:6])
    assert box.read() != CroppedImage(file, (1, 2, 6, 4)).read()
    beyond = decoded(CroppedImage(file, (-1, 3, 2, 6)))
    np.testing.assert_array_equal(beyond[:2, 1:], pixels()[3:5, :2])
    assert not beyond[:, 0].any()
    assert not beyond[2].any()
    wide = ImageArray("wide", pixels().reshape(7, 5, 3))
    assert wide.read() != ImageArray("high", pixels()).read()


def shown(path: Path) -> np.ndarray:
    source = ShownImage(path)
    return np.asarray(source.decode(source.read()))


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "LA", "RGBA", "P", "YCbCr"])
def test_images_of_any_mode_as_viewers_show_them(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 6), "white").convert(mode)
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    image.save(tmp_path / f"a.{suffix}")
    pixels = shown(tmp_path / f"a.{suffix}")
    assert pixels.shape == (6, 4, 3)
    assert pixels.min() >= 254  # YCbCr rounds


def test_images_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), np.rot90(pixels(), -1))
    np.testing.assert_array_equal(decoded(ImageFile(tmp_path / "a.png")), pixels())


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / "rgba.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=bytes([255, 0]))
    for name in ("rgba.png", "p.png"):
        assert shown(tmp_path / name).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_sixteen_bits_of_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert shown(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("box", [(7, 0, 9, 5), (-3, 0, 0, 3), (3, 3, 3, 4), (4, 4, 3, 5)])
def test_boxes_that_are_not_there(box: tuple[int, int, int, int]) -> None:
    source = CroppedImage(ImageArray("array", pixels()), box)
    with pytest.raises(UsageError, match=r"array .*: no such box in 7x5 pixels"):
        decoded(source)


def test_samples_of_archives(shards: list[Path]) -> None:
    samples = open_archives(shards)
    assert [sample.key for sample in samples] == ["s0", "s1", "s2", "s3"]
    assert [sample.text("cls") for sample in samples] == ["0", "1", "2", "3"]
    for number, sample in enumerate(samples):
        np.testing.assert_array_equal(decoded(sample.image()), pixels() + np.uint8(number))
    with pytest.raises(UsageError, match=r"0.tar:s0 has no .txt, only png, cls|cls, png"):
        samples[0].text("txt")
    with pytest.raises(UsageError, match=r"s0.png is not UTF-8"):
        samples[0].text("png")


def test_bad_archives(shards: list[Path], tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress(shards[0].read_bytes()))
    empty = tmp_path / "empty.tar"
    empty.write_bytes(b"\0" * 10240)
    for archive, message in (
        (packed, "packed.tar: not an uncompressed tar"),
        (tmp_path / "no.tar", "not there"),
        (empty, "no samples"),
    ):
        with pytest.raises(UsageError, match=message):
            open_archives([archive])
    member = open_archives(shards)[0].image()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(shards[0].read_bytes()[: member.offset + 10])
    with pytest.raises(UsageError, match=r"cut\.tar is cut off inside s0\.png"):
        ArchiveMember(cut, member.member, member.offset, member.size).read()
    shutil.rmtree(tmp_path)
    with pytest.raises(UsageError, match=r"cannot read .*0.tar:s0.png"):
        member.read()


def test_errors_name_the_file_and_not_a_buffer(
    save_colour: Callable[..., Path], tmp_path: Path
) -> None:
    whole = save_colour(tmp_path / "cut.png", "red").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    with pytest.raises(UsageError, match=r"cannot decode image .*cut\.png: ") as raised:
        decoded(ImageFile(tmp_path / "cut.png"))
    assert "BytesIO" not in str(raised.value)
    with pytest.raises(UsageError, match=r"cannot read image .*: Is a directory"):
        ImageFile(tmp_path).read()
