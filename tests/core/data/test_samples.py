"""Decoding: every way in which a sample can be broken, on broken files."""

import io
import json
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from support.shards import jpeg

from cosmos_core.data.samples import KINDS, BadSampleError, RawSample, decode_sample

RECORD = json.dumps({"raw_caption": ["a"]}).encode()


def encoded(image, format):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def png(width, height):
    """A valid PNG header of any size, and no pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "record", "kind", "detail"),
    [
        (None, RECORD, "image_missing", "no jpg"),
        (b"", RECORD, "image_broken", "^0 bytes"),
        (b"not a picture", RECORD, "image_broken", "13 bytes of no known format"),
        (jpeg(0)[:-400], RECORD, "image_broken", "truncated"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, RECORD, "image_broken", "504 bytes"),
        (encoded(PIL.Image.new("RGB", (30, 30)), "PNG")[:60], RECORD, "image_broken", "60 bytes"),
        (encoded(PIL.Image.new("RGB", (30, 30)), "WEBP")[:30], RECORD, "image_broken", "30 bytes"),
        (png(0, 10), RECORD, "image_broken", "bytes"),
        (png(10, 10), RECORD, "image_broken", "bytes"),
        (png(10_000, 10_000), RECORD, "image_too_large", "100000000 pixels"),
        (png(60_000, 60_000), RECORD, "image_too_large", "3600000000 pixels"),
        (jpeg(0), None, "record_missing", "no json"),
        (jpeg(0), b"", "record_broken", "invalid JSON"),
        (jpeg(0), b"{'raw_caption': 1}", "record_broken", "invalid JSON"),
        (jpeg(0), b'{"raw_caption": "\xff"}', "record_broken", "invalid JSON"),
        (jpeg(0), b"[" * 100_000, "record_broken", "invalid JSON"),
        (jpeg(0), b'["a"]', "record_broken", "holds a list, not an object"),
        (jpeg(0), b"null", "record_broken", "holds a NoneType"),
        (jpeg(0), b'{"raw_caption": []}', "captions_missing", "every caption is empty"),
        (jpeg(0), b'{"caption": 4}', "captions_wrong", "caption holds a int"),
    ],
)
def test_a_broken_sample_is_of_a_kind(image, record, kind, detail):
    with pytest.raises(BadSampleError, match=detail) as error:
        decode_sample(RawSample(image, record))
    assert error.value.kind == kind
    assert kind in KINDS


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    grey = np.arange(100, dtype=np.uint8).reshape(10, 10)
    deep = PIL.Image.fromarray(grey.astype(np.uint16))
    image = deep if mode == "I;16" else PIL.Image.fromarray(grey).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    decoded, sentences = decode_sample(RawSample(data, RECORD))
    assert decoded.mode == "RGB"
    assert decoded.size == (10, 10)
    assert sentences == ["a"]


def test_oddities_that_pillow_warns_of_do_no_harm():
    image = PIL.Image.new("P", (4, 4))
    data = io.BytesIO()
    image.save(data, "PNG", transparency=b"\x00\x80")  # "should be converted to RGBA"
    assert decode_sample(RawSample(data.getvalue(), RECORD)).image.mode == "RGB"


def test_a_problem_is_one_printable_line():
    error = BadSampleError("image_broken", "two\nlines")
    problem = error.problem("a\udcff.tar", "key\udcfe")
    assert problem == ("image_broken", r"key\udcfe", r"a\udcff.tar: two lines")
