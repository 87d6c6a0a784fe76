"""Read users' files: bytes, text, JSON, JSON lines, tables, YAML, checked by pydantic models."""

import ast
import csv
import io
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import yaml
from pydantic import ConfigDict, StringConstraints

from cosmos_core.utils import text
from cosmos_eval.types import UsageError, nearest

LARGEST = 4 << 30
"""Bytes of the largest file that is read whole."""

_LARGEST_YAML = 16 << 20
_MOST_VALUES = 1_000_000  # of a YAML file, with its aliases written out

CONFIG = ConfigDict(
    strict=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()
)
"""Of files whose keys are all known: nothing is converted, and other keys are faults."""

Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that is not blank."""

# Tags of the two types of a field that is a text or a list of texts; they are no part of its path.
LIST, TEXT = "<list>", "<text>"

# What replaces those of pydantic's messages that say less.
_MESSAGES = {
    "string_type": "must be text (write yes, no and numbers in quotes)",
    "string_pattern_mismatch": "must be text that is not blank",
    "float_type": "must be a finite number that float32 can hold",
    "int_type": "must be a whole number",
    "dict_type": "must map names to values",
    "model_type": "must map names to values",
    "too_short": "must have an entry",
}

_Model = TypeVar("_Model", bound=pydantic.BaseModel)


class FileError(ValueError):
    """What is wrong in a file, without the file's name."""


class MissingFileError(FileError):
    """There is no such file."""


@contextmanager
def faults_of(where: str) -> Iterator[None]:
    """Raise UsageError, which begins with `where`, for a FileError in the block."""
    try:
        yield
    except FileError as error:
        raise UsageError(f"{where}{error}") from error


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Read a regular file of at most `largest` bytes. Raises FileError."""
    if "\0" in str(path):
        raise MissingFileError("no such file")
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FileError("is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):  # which may block or never end
            raise FileError("is a pipe or a device, not a file")
        if status.st_size > largest:
            raise FileError(f"has {status.st_size} bytes; at most {largest} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError("no such file") from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}") from error


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark. Raises FileError."""
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"is not UTF-8 text: {error}; save it as UTF-8") from error


def parse_json(content: str | bytes) -> Any:
    """Parse JSON as `cosmos_core.utils.text.parse_json` does. Raises FileError."""
    try:
        return text.parse_json(content)
    except ValueError as error:
        raise FileError(f"is not JSON: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32. Raises FileError."""
    return parse_json(read_bytes(path))


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield where an entry of a file is, as `line 3` or `record 2`, and it. Raises FileError."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".jsonlines"):
        for number, line in lines(read_text(path)):
            try:
                yield f"line {number}", parse_json(line)
            except FileError as error:
                raise FileError(f"line {number}: {error}") from error
    elif suffix in (".csv", ".tsv"):
        yield from _table_rows(read_text(path))
    elif suffix == ".json":
        content = read_json(path)
        if not isinstance(content, dict | list):
            raise FileError("must hold a list of records, or an object of them")
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        yield from ((f"record {key}", entry) for key, entry in entries)
    else:
        raise FileError("must be a .json, .jsonl, .csv or .tsv file")


def parse_list(cell: Any) -> Any:
    """Return a list, or that of a table's cell as JSON or Python writes it. Raises FileError."""
    if not isinstance(cell, str):
        return cell
    with suppress(FileError):
        return parse_json(cell)
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise FileError(f"must be a list as Python writes it: {error}") from None


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield stripped lines that are not blank, and their numbers; only a line feed ends one."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _table_rows(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a table: OpenCLIP's .csv files are separated by tabs."""
    separator = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if len(header) == 1 and ";" in header[0]:
            raise FileError("line 1: columns are separated by semicolons: use commas or tabs")
        if repeated := first_repeated(header):
            raise FileError(f"line 1: column {repeated[0]} is listed twice")
        for row in filter(None, reader):
            if len(row) != len(header):
                raise FileError(
                    f"line {reader.line_num}: {len(row)} fields, but the header has "
                    f"{len(header)}; a field that holds the separator stands in double quotes"
                )
            yield f"line {reader.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise FileError(f"line {reader.line_num}: {error}") from error


def read_yaml(path: Path, example: str) -> dict[str, Any]:
    """Read the keys and values of a YAML file, such as the line `example`. Raises FileError."""
    try:
        content = yaml.load(read_text(path, _LARGEST_YAML), _Loader)
    except RecursionError:
        raise FileError("is not YAML: it is nested too deeply") from None
    except yaml.YAMLError as error:
        text = " ".join(str(error).split()).replace(' in "<unicode string>"', "")
        raise FileError(f"is not YAML: {text}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FileError(f"must hold keys and values, such as `{example}`")
    return content


class _Loader(yaml.SafeLoader):
    """YAML without its silent acceptance of a key given twice."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a value. PyYAML raises whatever it meets in a date or number that is none."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        try:
            node.value.encode()  # half a character, as in "\\ud800", is no text
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, AttributeError, KeyError) as error:
            kind = node.tag.rpartition(":")[2]
            raise FileError(
                f"line {node.start_mark.line + 1}: {shortened(node.value)} cannot be read as "
                f"{kind}; write text in quotes"
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dictionary whose keys are distinct."""
        pairs = list(node.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=True)
        if repeated := first_repeated(self.construct_object(key) for key, _ in pairs):
            raise FileError(f"key {shortened(repeated[0])} is given twice")
        return found

    def get_single_node(self) -> yaml.Node | None:
        """Read the nodes, which must not stand for too many values."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Count the values below a node, those of an alias each time: nested ones may be too many."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = _MOST_VALUES  # met again below itself: it has no end
        pairs = isinstance(node, yaml.MappingNode)
        below = [part for pair in node.value for part in pair] if pairs else node.value
        counts[id(node)] = 1 + sum(_count(part, counts) for part in below)
    if counts[id(node)] > _MOST_VALUES:
        raise FileError(f"stands for more than {_MOST_VALUES} values with its aliases written out")
    return counts[id(node)]


def parse(model: type[_Model], content: Mapping[str, Any]) -> _Model:
    """Validate the content of a file. Raises FileError, one line, for the first fault."""
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        # A wrong spelling makes a key unknown and may leave another one missing.
        faults = error.errors(include_url=False)
        fault = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    first, *rest = fault["loc"]
    inner = (part for part in rest if part not in (LIST, TEXT))
    path = str(first) + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in inner)
    if fault["type"] == "missing":
        raise FileError(f"`{path}` is missing")
    if fault["type"] == "extra_forbidden":
        known = list(model.model_fields) if path == first else ["name", "queries"]
        names = nearest(path.rpartition(".")[2], known)
        raise FileError(f"unknown key `{path}`; nearest known: {names}")
    text = fault["msg"].removeprefix("Input ").replace("should", "must", 1)
    raise FileError(
        f"`{path}` {_MESSAGES.get(fault['type'], text)}, not {shortened(fault['input'])}"
    )


def shortened(value: Any) -> str:
    """Return a value as Python writes it, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def first_repeated(values: Iterable[Any]) -> list[Any]:
    """Return a list of the first of the values that occur more than once, empty without any."""
    return [value for value, count in Counter(values).items() if count > 1][:1]
