"""Users' files: each fault of bytes, text, JSON and YAML is a line of its own."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from cosmos_eval.data.readers import FileError, MissingFileError, parse_json, read_text, read_yaml
from cosmos_eval.data.readers import read_bytes as read

# Nine lists of nine aliases each: 9 ** 10 values in 300 bytes.
BOMB = f"key:\n  - &a [{', '.join(['x'] * 9)}]\n" + "".join(
    f"  - &{name} [{', '.join([f'*{former}'] * 9)}]\n" for former, name in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key: " + "[" * 1000 + "]" * 1000, "nested too deeply"),
        ("key: 2020-99-99", "line 1: '2020-99-99' cannot be read as timestamp"),
        ("a: 1\n2020-99-99: 1", "line 2: '2020-99-99' cannot be read as timestamp"),
        ("key: " + "9" * 6000, r"line 1: '9{59}\.\.\. cannot be read as int"),
        ("key: 0x_", "'0x_' cannot be read as int"),
        ("key: !!int abc", "'abc' cannot be read as int"),
        ("key: !!float abc", "'abc' cannot be read as float"),
        ("key: !!bool abc", "'abc' cannot be read as bool"),
        ("key: !!timestamp abc", "'abc' cannot be read as timestamp"),
        ("key: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ('key: "\\ud800"', "cannot be read as str"),
        (BOMB, "stands for more than 1000000 values"),
        ("key: &a [*a]", "stands for more than 1000000 values"),
        ("a: 1\nb: 2\na: 3", "key 'a' is given twice"),
        ("? [a]\n: 1", "unhashable key"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
        ("1: a", "must hold keys and values"),
    ],
    ids=lambda value: value[:20],
)
def test_yaml_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FileError, match=message):
        read_yaml(tmp_path / "a.yaml", "kind: cls")


def test_yaml_that_can_be_used(tmp_path):
    path = tmp_path / "a.yaml"
    expected = {"a": [1, 2.5, True, None, "x"], "b": {"c": ["y"]}, "d": [["y"], ["y"]]}
    text = "a: [1, 2.5, yes, ~, x]\nb: {c: &y [y]}\nd: [*y, *y]\n"
    for content in (text, "\ufeff" + text, text.replace("\n", "\r\n")):
        path.write_bytes(content.encode())
        assert read_yaml(path, "") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 6000, "4300 digits"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ('{"a": 1, "a": 2}', "name 'a' is given twice"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('{"\\uDC00": 1}', "surrogates not allowed"),
        (b'["\xed\xa0\x80"]', "can't decode"),
        (b'["\xe9"]', "can't decode"),
        ("", "Expecting value"),
        ("{}{}", "Extra data"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_json_that_cannot_be_used(content, message):
    with pytest.raises(FileError, match=f"is not JSON: .*{message}"):
        parse_json(content)


def test_json_that_can_be_used():
    expected = {"a": [1, 2.5, None, "é\U0001f600"]}
    text = json.dumps(expected)  # the smiling face as two escapes, which belong together
    assert "\\ud83d\\ude00" in text
    for content in (text, text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
        assert parse_json(content) == expected


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "long").write_bytes(b"12345")
    for path, message in (
        (tmp_path / "pipe", "is a pipe or a device"),
        (Path("/dev/zero"), "is a pipe or a device"),
        (tmp_path / "folder", "is a folder"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "long" / "x", "Not a directory"),
        (tmp_path / "long", "has 5 bytes; at most 4 are read"),
    ):
        with pytest.raises(FileError, match=message):
            read(path, largest=4)
    for name in ("none", "a\0b"):
        with pytest.raises(MissingFileError, match="no such file"):
            read(tmp_path / name)


def test_text_is_utf_8(tmp_path):
    (tmp_path / "a").write_text("é", "utf-8-sig")
    assert read_text(tmp_path / "a") == "é"
    (tmp_path / "a").write_text("é", "utf-16")
    with pytest.raises(FileError, match=r"is not UTF-8 text: .*; save it as UTF-8"):
        read_text(tmp_path / "a")
