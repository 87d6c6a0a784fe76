"""Caption records of both formats, whole and broken."""

import json

import pytest

from cosmos_core.data.samples import BadSampleError, caption_sentences


def test_dreamlips_captions_are_lists_of_sentences_or_texts():
    listed = {"raw_caption": [" a "], "shortIB_captions": ["b.c"], "longLLA_captions": ["d", " "]}
    assert caption_sentences(listed) == ["a", "b.c", "d"]
    text = {"url": "u", "raw_caption": "a", "longSV_captions": "One. Two\nthree</s>", "width": 3}
    assert caption_sentences(text) == ["a", "One", "Two", "three"]


def test_pixelproses_captions_are_an_original_and_a_text():
    prose = {"original_caption": "alt. text", "caption": "First one. Second\nThird</s>"}
    assert caption_sentences(prose) == ["alt. text", "First one", "Second", "Third"]
    assert caption_sentences({"caption": "only."}) == ["only"]


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
        ('{"raw_caption": [["a"]]}', "captions_wrong", "raw_caption holds a list"),
        ('{"raw_caption": {"en": "a"}}', "captions_wrong", "raw_caption holds a dict"),
        ('{"raw_caption": true}', "captions_wrong", "raw_caption holds a bool"),
        ('{"caption": 3.5}', "captions_wrong", "caption holds a float"),
        ('{"original_caption": null, "caption": "a"}', "captions_wrong", "original_caption holds"),
        (r'{"raw_caption": "half \ud83d"}', "captions_wrong", "no valid Unicode"),
    ],
)
def test_what_is_no_caption_is_a_kind_of_bad_sample(record, kind, detail):
    with pytest.raises(BadSampleError, match=detail) as error:
        caption_sentences(json.loads(record))
    assert error.value.kind == kind
