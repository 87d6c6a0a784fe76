"""Captions, decoding on broken files, and the count of bad samples."""

import io
import json
import logging
import struct
import zlib
from typing import get_args

import numpy as np
import PIL.Image
import pytest
from support.shards import encoded, jpeg

from cosmos_core.config import CaptionKey
from cosmos_core.data import samples

RECORD = json.dumps({"raw_caption": ["a"]}).encode()


def test_dreamlips_captions_are_lists_of_sentences_or_texts():
    listed = {"raw_caption": [" a "], "shortIB_captions": ["b.c"], "longLLA_captions": ["d", " "]}
    assert samples.caption_sentences(listed) == ["a", "b.c", "d"]
    text = {"url": "u", "raw_caption": "a", "longSV_captions": "One. Two\nthree</s>", "width": 3}
    assert samples.caption_sentences(text) == ["a", "One", "Two", "three"]
    # PixelProse's are an original and a text.
    prose = {"original_caption": "alt. text", "caption": "First one. Second\nThird</s>"}
    assert samples.caption_sentences(prose) == ["alt. text", "First one", "Second", "Third"]
    assert samples.caption_sentences({"caption": "only."}) == ["only"]


@pytest.mark.parametrize(
    ("record", "kind", "detail"),
    [
        ('{"text": "x"}', "captions_missing", "no caption key among: text"),
        ("{}", "captions_missing", "no caption key among: none"),
        ('{"raw_caption": [], "longSV_captions": [" "]}', "captions_missing", "is empty"),
        ('{"raw_caption": ""}', "captions_missing", "is empty"),
        ('{"original_caption": "", "caption": ". ."}', "captions_missing", "is empty"),
        ('{"raw_caption": ["a"], "longIB_captions": null}', "captions_wrong", "holds a NoneType"),
        ('{"raw_caption": ["a", 5]}', "captions_wrong", "raw_caption holds a int"),
        ('{"raw_caption": {"en": "a"}}', "captions_wrong", "raw_caption holds a dict"),
        ('{"original_caption": null, "caption": "a"}', "captions_wrong", "original_caption holds"),
        (r'{"raw_caption": "half \ud83d"}', "captions_wrong", "not valid Unicode"),
    ],
)
def test_what_is_no_caption_is_a_kind_of_bad_sample(record, kind, detail):
    with pytest.raises(samples.BadSampleError, match=detail) as error:
        samples.caption_sentences(json.loads(record))
    assert error.value.kind == kind


DREAMLIP = {"raw_caption": ["a"], "shortSV_captions": ["b"], "longSV_captions": "c. d", "n": 1}
PIXELPROSE = {"original_caption": "e. f", "caption": "g. h"}
BOTH = {**PIXELPROSE, **DREAMLIP}


@pytest.mark.parametrize(
    ("record", "keys", "sentences"),
    [
        (DREAMLIP, ["raw_caption"], ["a"]),
        # A record with captions of both data sets.
        (BOTH, ["raw_caption", "caption"], ["a", "g", "h"]),
        (BOTH, ["caption"], ["g", "h"]),
        (BOTH, ["original_caption", "shortSV_captions"], ["b", "e. f"]),
        (BOTH, [], ["a", "b", "c", "d"]),
        (DREAMLIP, ["longSV_captions", "raw_caption", "longIB_captions"], ["a", "c", "d"]),
        (PIXELPROSE, ["original_caption"], ["e. f"]),
        (PIXELPROSE, ["caption", "raw_caption"], ["g", "h"]),
    ],
)
def test_captions_are_chosen_by_their_keys(record, keys, sentences):
    assert samples.caption_sentences(record, keys) == sentences
    raw = samples.RawSample(jpeg(0), json.dumps(record).encode())
    assert samples.decode_sample(raw, keys).sentences == sentences


def test_a_sample_without_the_chosen_captions_is_bad():
    missing = "^no original_caption or raw_caption among: caption$"
    with pytest.raises(samples.BadSampleError, match=missing) as error:
        samples.caption_sentences({"caption": "a"}, ["original_caption", "raw_caption"])
    assert error.value.kind == "captions_missing"
    with pytest.raises(samples.BadSampleError, match="every caption is empty"):
        samples.caption_sentences({"raw_caption": [" "], "longIB_captions": "a"}, ["raw_caption"])
    # Captions that are not used need not be texts.
    assert samples.caption_sentences({"raw_caption": "a", "longIB_captions": 3}, ["raw_caption"])


def test_every_key_can_be_chosen():
    assert get_args(CaptionKey) == samples.DREAMLIP_KEYS + samples.PIXELPROSE_KEYS


def png(width, height):
    """A valid PNG header of any size, and no pixels."""

    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (struct.pack(">4s2L5B", b"IHDR", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND"):
        content += struct.pack(">L", len(chunk) - 4) + chunk + struct.pack(">L", zlib.crc32(chunk))
    return content


@pytest.mark.parametrize(
    ("image", "record", "kind", "detail"),
    [
        (None, RECORD, "image_missing", "no jpg"),
        (b"", RECORD, "image_broken", "^0 bytes"),
        (b"not a picture", RECORD, "image_broken", "13 bytes in an unknown format"),
        (jpeg(0)[:-400], RECORD, "image_broken", "truncated"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, RECORD, "image_broken", "504 bytes"),
        (encoded(PIL.Image.new("RGB", (30, 30)), "PNG")[:60], RECORD, "image_broken", "60 bytes"),
        (png(0, 10), RECORD, "image_broken", "bytes"),
        (png(10, 10), RECORD, "image_broken", "bytes"),
        (png(60_000, 60_000), RECORD, "image_too_large", "3600000000 pixels"),
        (jpeg(0), None, "record_missing", "no json"),
        (jpeg(0), b"", "record_broken", "invalid JSON"),
        (jpeg(0), b'{"raw_caption": "\xff"}', "record_broken", "invalid JSON"),
        (jpeg(0), b"[" * 100_000, "record_broken", "invalid JSON"),
        (jpeg(0), b'["a"]', "record_broken", "holds a list, not an object"),
        (jpeg(0), b'{"raw_caption": []}', "captions_missing", "every caption is empty"),
        (jpeg(0), b'{"caption": 4}', "captions_wrong", "caption holds a int"),
    ],
)
def test_a_broken_sample_is_of_a_kind(image, record, kind, detail):
    with pytest.raises(samples.BadSampleError, match=detail) as error:
        samples.decode_sample(samples.RawSample(image, record))
    assert error.value.kind == kind
    assert kind in samples.KINDS


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    grey = np.arange(100, dtype=np.uint8).reshape(10, 10)
    deep = PIL.Image.fromarray(grey.astype(np.uint16))
    image = deep if mode == "I;16" else PIL.Image.fromarray(grey).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    decoded, sentences = samples.decode_sample(samples.RawSample(data, RECORD))
    assert decoded.mode == "RGB"
    assert decoded.size == (10, 10)
    assert sentences == ["a"]


def test_oddities_that_pillow_warns_of_do_no_harm():
    image = PIL.Image.new("P", (4, 4))
    data = io.BytesIO()
    image.save(data, "PNG", transparency=b"\x00\x80")  # "should be converted to RGBA"
    assert samples.decode_sample(samples.RawSample(data.getvalue(), RECORD)).image.mode == "RGB"


def test_a_problem_is_one_printable_line():
    error = samples.BadSampleError("image_broken", "two\nlines")
    problem = error.problem("a\udcff.tar", "key\udcfe")
    assert problem == ("image_broken", r"key\udcfe", r"a\udcff.tar: two lines")


def problems(count, kind="image_broken"):
    return [samples.Problem(kind, f"{number:03d}", "a.tar: broken") for number in range(count)]


def test_a_run_stops_above_the_limit_and_not_at_it_nor_before_enough_samples_are_seen():
    counter = samples.ProblemCounter(0.05, minimum=100)
    counter.add(problems(5), seen=95)
    message = r"^6 of 101 samples could not be read \(5.9%\)"
    with pytest.raises(samples.UnreadableDataError, match=message):
        counter.add(problems(1), seen=0)
    assert counter.bad == 6
    counter = samples.ProblemCounter(0.05, minimum=100)
    counter.add([*problems(20), *problems(30, "record_missing")], seen=49)
    with pytest.raises(
        samples.UnreadableDataError, match=r"max_bad=0.05 allows; most often record_mis.* 029"
    ):
        counter.add([], seen=1)


def test_few_of_a_kind_are_logged(caplog):
    counter = samples.ProblemCounter(1.0)
    with caplog.at_level(logging.WARNING):
        for problem in problems(100):
            counter.add([problem], seen=1)
        counter.add(problems(1, "truncated"), seen=1)
    logged = [record.getMessage() for record in caplog.records]
    # The first three, and the 4th, 8th, 16th, 32nd and 64th.
    keys = [message.split()[2].rstrip(":") for message in logged]
    assert keys == ["000", "001", "002", "003", "007", "015", "031", "063", "000"]
    assert logged[0] == "bad sample 000: image_broken: a.tar: broken"
    assert logged[4].endswith("(8 of this kind so far)")
    assert "truncated" in logged[-1]


def test_counts_go_on_from_a_snapshot():
    first = samples.ProblemCounter(0.1, minimum=100)
    first.add(problems(9), seen=91)
    state = json.loads(json.dumps(first.state()))
    second = samples.ProblemCounter(0.1, minimum=100)
    second.load(state)
    assert second.bad == 9
    assert second.state() == first.state()
    with pytest.raises(samples.UnreadableDataError, match="11 of 102"):
        second.add(problems(2), seen=0)
