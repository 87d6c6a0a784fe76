"""Images from files, archives, arrays and parts of others; samples of webdataset archives."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import PIL.ImageFile
import pytest
from PIL import ExifTags, Image, ImageOps
from support.shards import encoded

from cosmos_core.data.samples import BadSampleError, RawSample, decode_sample
from cosmos_eval.data import sources
from cosmos_eval.tasks.segmentation.pictures import decode as decode_segmented
from cosmos_eval.types import UsageError


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def decoded(source: sources.ImageSource) -> np.ndarray:
    return np.asarray(source.decode(source.read()))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two archives as webdataset writes them, three samples and one."""
    import webdataset

    pattern = str(tmp_path / "%d.tar")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as sink:
        for number in range(4):
            content = encoded(Image.fromarray(pixels() + np.uint8(number)), "PNG")
            sink.write({"__key__": f"s{number}", "png": content, "cls": number})
    return [tmp_path / "0.tar", tmp_path / "1.tar"]


def test_the_same_pixels_from_everywhere(shards: list[Path], tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    file = sources.ImageFile(tmp_path / "a.png")
    member = sources.open_archives(shards)[0].image()
    for source in (file, member, sources.ImageArray("array", pixels())):
        np.testing.assert_array_equal(decoded(source), pixels())
    assert file.read() == member.read()
    box = sources.CroppedImage(file, (1, 2, 6, 5))
    np.testing.assert_array_equal(decoded(box), pixels()[2:5, 1:6])
    assert box.read() != sources.CroppedImage(file, (1, 2, 6, 4)).read()
    beyond = decoded(sources.CroppedImage(file, (-1, 3, 2, 6)))
    np.testing.assert_array_equal(beyond[:2, 1:], pixels()[3:5, :2])
    assert not beyond[:, 0].any()
    assert not beyond[2].any()
    wide = sources.ImageArray("wide", pixels().reshape(7, 5, 3))
    assert wide.read() != sources.ImageArray("high", pixels()).read()


def shown(path: Path) -> np.ndarray:
    return decoded(sources.ShownImage(path))


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "LA", "RGBA", "P", "YCbCr"])
def test_images_of_any_mode_as_viewers_show_them(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (4, 6), "white").convert(mode).save(path)
    assert shown(path).shape == (6, 4, 3)
    assert shown(path).min() >= 254  # YCbCr rounds


def turned() -> Image.Exif:
    """An orientation of images that are to be turned by 90 degrees."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def test_images_are_upright(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=turned())
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), np.rot90(pixels(), -1))
    np.testing.assert_array_equal(decoded(sources.ImageFile(tmp_path / "a.png")), pixels())


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


def trained_on(content: bytes) -> np.ndarray:
    """What training sees of the same file."""
    return np.asarray(decode_sample(RawSample(content, b'{"raw_caption": "a"}')).image)


GREYS = (0, 1, 255, 256, 0x7FFF, 0x8000, 0xFF00, 0xFFFF)
HIGH_BYTES = [0, 0, 0, 1, 127, 128, 255, 255]


def by_opencv(suffix: str, values: np.ndarray) -> bytes:
    written, content = cv2.imencode(suffix, values)
    assert written
    return content.tobytes()


def tiff(values: np.ndarray, bits: int, white: int = 1, order: str = "<") -> bytes:
    """A greyscale TIFF of one strip; `white` is 1 where large values are bright, else 0."""
    height, width = values.shape
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = ((256, width), (257, height), (258, bits), (259, 1), (262, white), (273, 8))
    tags += ((277, 1), (278, height), (279, len(content)))
    directory = struct.pack(f"{order}H", len(tags)) + b"".join(
        struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(content))
    return start + content + directory + b"\0\0\0\0"


SIXTEEN_BITS = np.array([GREYS], np.uint16)
SIXTEEN_BIT_FILES = {
    "png": by_opencv(".png", SIXTEEN_BITS),
    "tif": by_opencv(".tiff", SIXTEEN_BITS),
    "tif, large values first": tiff(SIXTEEN_BITS, 16, order=">"),
    "pgm": b"P5 8 1 65535\n" + SIXTEEN_BITS.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", SIXTEEN_BIT_FILES)
def test_sixteen_bits_of_grey_are_read_by_their_high_byte(kind: str, tmp_path: Path) -> None:
    content = SIXTEEN_BIT_FILES[kind]
    (tmp_path / "a.png").write_bytes(content)  # formats are known by what a file holds
    image = sources.ImageFile(tmp_path / "a.png").decode(content)
    assert image.mode == "RGB"
    expected = np.repeat(np.array([HIGH_BYTES], np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(decode_segmented(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(trained_on(content), expected)
    # Pillow reads 16-bit colours in the same way.
    colours = by_opencv(".png", np.repeat(SIXTEEN_BITS[..., None], 3, axis=2))
    np.testing.assert_array_equal(sources.ImageFile(tmp_path / "a.png").decode(colours), expected)


def test_a_turned_image_of_sixteen_bits_is_shown_upright(tmp_path: Path) -> None:
    values = np.array([[0, 0x8000, 0xFF00]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", exif=turned())
    assert shown(tmp_path / "a.png")[..., 0].tolist() == [[0], [128], [255]]
    source = sources.ImageFile(tmp_path / "a.png")
    image = source.decode(source.read())
    assert image.size == (3, 1)
    assert ImageOps.exif_transpose(image).size == (1, 3)  # as localisation turns what it reads


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (by_opencv(".tiff", np.array([[0, 0.5, 1]], np.float32)), "F"),
        (b"Pf 2 1 -1\n" + np.array([0.5, 1], "<f4").tobytes(), "F"),
        (tiff(np.array([[0, 255, 65535]], np.uint32), 32), "I"),
        (tiff(np.zeros((2, 6), np.uint8), 12)[:-4] + b"\0\0\0\0", "I;16"),
        (tiff(SIXTEEN_BITS, 16, white=0), "I;16"),
    ],
    ids=["float TIFF", "PFM", "32 bits", "12 bits", "0 is white"],
)
def test_grey_without_a_known_white_is_refused(content: bytes, mode: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"a\.tif: its white is not .* mode {mode}: ") as raised:
        sources.ImageFile(tmp_path / "a.tif").decode(content)
    assert "\n" not in str(raised.value)
    with pytest.raises(BadSampleError, match="its white is not defined"):
        trained_on(content)


PHOTOGRAPH = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8))
FRAMES = {"save_all": True, "append_images": [PHOTOGRAPH.rotate(180), PHOTOGRAPH]}
# Files whose pixels are Pillow's `convert("RGB")`, as in the published code.
ORDINARY = {
    "jpeg": encoded(PHOTOGRAPH, "JPEG"),
    "turned jpeg": encoded(PHOTOGRAPH, "JPEG", exif=turned()),
    "grey jpeg": encoded(PHOTOGRAPH.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(PHOTOGRAPH.convert("CMYK"), "JPEG"),
    "png": encoded(PHOTOGRAPH, "PNG"),
    "1 bit": encoded(PHOTOGRAPH.convert("1"), "PNG"),
    "grey and transparency": encoded(PHOTOGRAPH.convert("LA"), "PNG"),
    "colours and transparency": encoded(PHOTOGRAPH.convert("RGBA"), "PNG"),
    "palette": encoded(PHOTOGRAPH.quantize(16), "PNG", transparency=3),
    "palette and transparency": encoded(PHOTOGRAPH.quantize(4), "PNG", transparency=b"\0\x80"),
    "webp": encoded(PHOTOGRAPH, "WEBP"),
    "ycbcr": encoded(PHOTOGRAPH.convert("YCbCr"), "TIFF"),
    "bmp": encoded(PHOTOGRAPH, "BMP"),
    "gif": encoded(PHOTOGRAPH.quantize(16), "GIF"),
    **{f"animated {kind}": encoded(PHOTOGRAPH, kind, **FRAMES) for kind in ("GIF", "WEBP", "PNG")},
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", ORDINARY)
def test_other_images_are_pillows_own(name: str, tmp_path: Path) -> None:
    content = ORDINARY[name]
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert expected.shape == (9, 7, 3)  # no turning by EXIF
    np.testing.assert_array_equal(sources.ImageFile(tmp_path / "a.jpg").decode(content), expected)
    np.testing.assert_array_equal(trained_on(content), expected)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "bmp", "gif"])
def test_a_cut_file_is_refused_even_where_pillow_is_told_to_take_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ORDINARY[name]
    for cut in (content[:40], content[: 2 * len(content) // 3]):
        monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with pytest.raises(UsageError, match=r"cannot decode image .*a\.jpg: ") as raised:
            sources.ImageFile(tmp_path / "a.jpg").decode(cut)
        assert "BytesIO" not in str(raised.value)
        monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with pytest.raises(BadSampleError):
            trained_on(cut)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read image .*: is a folder"):
        sources.ImageFile(tmp_path).read()


@pytest.mark.parametrize("box", [(7, 0, 9, 5), (-3, 0, 0, 3), (3, 3, 3, 4), (4, 4, 3, 5)])
def test_boxes_that_are_not_there(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"array .*: no such box in 7x5 pixels"):
        decoded(sources.CroppedImage(sources.ImageArray("array", pixels()), box))


def test_samples_of_archives(shards: list[Path]) -> None:
    samples = sources.open_archives(shards)
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
            sources.open_archives([archive])
    member = sources.open_archives(shards)[0].image()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(shards[0].read_bytes()[: member.offset + 10])
    with pytest.raises(UsageError, match=r"cut\.tar is cut off inside s0\.png"):
        sources.ArchiveMember(cut, member.member, member.offset, member.size).read()
    shutil.rmtree(tmp_path)
    with pytest.raises(UsageError, match=r"cannot read .*0.tar:s0.png"):
        member.read()


def test_images_of_one_name_in_a_zip_file_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, colour in (("train/1.png", "red"), ("test/1.png", "blue"), ("test/2.png", "red")):
            with archive.open(name, "w") as file:
                Image.new("RGB", (4, 4), colour).save(file, "PNG")
    images = sources.ImageZip(path)

    def colour_of(name: str) -> list[int]:
        source = images.find(name)
        assert source is not None
        colour: list[int] = decoded(source)[0, 0].tolist()
        return colour

    assert colour_of("test/1.png") == [0, 0, 255]
    assert colour_of("2.png") == [255, 0, 0]
    assert images.find("3.png") is None
    with pytest.raises(UsageError, match=r"images named 1.png \(train/1.png, test/1.png\): give"):
        images.find("1.png")
