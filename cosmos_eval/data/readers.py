"""Read users' files: bytes, text, JSON, JSON lines, tables, YAML, checked by pydantic models."""

import ast
import csv
import io
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

_MAX_YAML_BYTES = 16 << 20
_MAX_SHOWN = 60  # characters of a value in an error message
_MAX_YAML_VALUES = 1_000_000  # of a YAML file in which aliases are replaced by their values

CONFIG = ConfigDict(
    strict=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()
)
"""The configuration of pydantic for files: no value is converted, and unknown keys are faults."""

Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that is not blank."""

# Tags of the two types of a field that is a text or a list of texts. Pydantic adds them to the path
# of a field; error messages leave them out.
LIST, TEXT = "<list>", "<text>"

# Messages by the type of pydantic's error, if they say more than pydantic's.
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
    """A fault in a file. The message does not name the file."""


class MissingFileError(FileError):
    """Raised for a file that does not exist."""


@contextmanager
def faults_of(location: str) -> Iterator[None]:
    """Turn a FileError in the block into a UsageError whose message begins with `location`."""
    try:
        yield
    except FileError as error:
        raise UsageError(f"{location}{error}") from error


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Read a regular file of at most `largest` bytes. Raise FileError if it cannot be read."""
    if "\0" in str(path):
        raise MissingFileError("no such file")
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FileError("is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):  # reading may block or never end
            raise FileError("is a pipe or a device, not a file")
        if status.st_size > largest:
            raise FileError(f"has {status.st_size} bytes; at most {largest} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError("no such file") from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}") from error


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark. Raise FileError for others."""
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"is not UTF-8 text: {error}; save it as UTF-8") from error


def parse_json(content: str | bytes) -> Any:
    """Parse JSON as `cosmos_core.utils.text.parse_json` does. Raise FileError for other text."""
    try:
        return text.parse_json(content)
    except ValueError as error:
        raise FileError(f"is not JSON: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32. Raise FileError if it cannot be read."""
    return parse_json(read_bytes(path))


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a file, each after its location, such as `line 3` or `record 2`.

    An entry of a table is a dictionary of texts; an entry of a JSON file may be any value. Raise
    FileError for a broken file.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".jsonlines"):
        yield from _json_lines(read_text(path))
    elif suffix in (".csv", ".tsv"):
        yield from _table_rows(read_text(path))
    elif suffix == ".json":
        content = read_json(path)
        if isinstance(content, list):
            for number, entry in enumerate(content):
                yield f"record {number}", entry
        elif isinstance(content, dict):
            for key, entry in content.items():
                yield f"record {key}", entry
        else:
            raise FileError("must hold a list of records, or an object of them")
    else:
        raise FileError("must be a .json, .jsonl, .csv or .tsv file")


def parse_list(cell: Any) -> Any:
    """Parse the text of a list in a cell of a table, in JSON's or Python's syntax.

    Return any value that is not text as it is. Raise FileError for text in another syntax.
    """
    if not isinstance(cell, str):
        return cell
    with suppress(FileError):
        return parse_json(cell)
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise FileError(f"must be a list as Python writes it: {error}") from None


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the stripped text of every line that is not blank.

    Only a line feed ends a line.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _json_lines(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the location and the value of every line of JSON."""
    for number, line in lines(text):
        try:
            yield f"line {number}", parse_json(line)
        except FileError as error:
            raise FileError(f"line {number}: {error}") from error


def _table_rows(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the location and the fields of every row of a table.

    Columns are separated by commas, or by tabs as in OpenCLIP's .csv files.
    """
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
    """Read the keys and values of a YAML file. Raise FileError if it holds anything else.

    `example` is a line of such a file, for the error message.
    """
    try:
        content = yaml.load(read_text(path, _MAX_YAML_BYTES), _Loader)
    except RecursionError:
        raise FileError("is not YAML: it is nested too deeply") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).replace(' in "<unicode string>"', "")
        raise FileError(f"is not YAML: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FileError(f"must hold keys and values, such as `{example}`")
    return content


class _Loader(yaml.SafeLoader):
    """A loader of YAML that refuses repeated keys and too many values."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a value. Raise FileError for a scalar that is not valid, such as a date 2024-99-99.

        PyYAML raises errors of many types for them.
        """
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        try:
            node.value.encode()  # fails for half a character, such as "\\ud800"
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, AttributeError, KeyError) as error:
            kind = node.tag.rpartition(":")[2]
            raise FileError(
                f"line {node.start_mark.line + 1}: {shortened(node.value)} cannot be read as "
                f"{kind}; write text in quotes"
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dictionary. Raise FileError for a key that is given twice."""
        pairs = list(node.value)  # before PyYAML replaces merge keys
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=True)
        if repeated := first_repeated(self.construct_object(key) for key, _ in pairs):
            raise FileError(f"key {shortened(repeated[0])} is given twice")
        return mapping

    def get_single_node(self) -> yaml.Node | None:
        """Read the nodes. Raise FileError if they stand for too many values."""
        node = super().get_single_node()
        if node is not None:
            _count_values(node, {})
        return node


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the number of values in a node. An alias counts every time that it is used.

    `counts` holds the counts of the nodes that were counted before, by their ids. Raise FileError
    for too many values. A short file can stand for them by aliases of aliases.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        # A node that contains itself is endless. It has this count when it is reached again.
        counts[id(node)] = _MAX_YAML_VALUES
        count = 1
        for child in node.value:
            if isinstance(node, yaml.MappingNode):
                key, value = child
                count += _count_values(key, counts) + _count_values(value, counts)
            else:
                count += _count_values(child, counts)
        counts[id(node)] = count
    if counts[id(node)] > _MAX_YAML_VALUES:
        raise FileError(
            f"stands for more than {_MAX_YAML_VALUES} values with its aliases written out"
        )
    return counts[id(node)]


def parse(model: type[_Model], content: Mapping[str, Any]) -> _Model:
    """Validate the content of a file. Raise FileError, on one line, for the first fault."""
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
    # Prefer an unknown key: if it is misspelt, the fault of a missing key follows from it.
    unknown_keys = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault = (unknown_keys or faults)[0]
    path = _field_path(fault["loc"])
    if fault["type"] == "missing":
        raise FileError(f"`{path}` is missing")
    if fault["type"] == "extra_forbidden":
        is_outermost = path == fault["loc"][0]
        keys = list(model.model_fields) if is_outermost else ["name", "queries"]
        nearest_keys = nearest(path.rpartition(".")[2], keys)
        raise FileError(f"unknown key `{path}`; nearest known: {nearest_keys}")
    message = _MESSAGES.get(fault["type"])
    if message is None:
        message = fault["msg"].removeprefix("Input ").replace("should", "must", 1)
    raise FileError(f"`{path}` {message}, not {shortened(fault['input'])}")


def _field_path(location: Sequence[int | str]) -> str:
    """Return the path of a field from pydantic's location.

    The location `("classes", 2, "queries")` becomes `classes[2].queries`.
    """
    path = str(location[0])
    for step in location[1:]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in (LIST, TEXT):
            path += f".{step}"
    return path


def shortened(value: Any) -> str:
    """Return a value as Python writes it, with `...` after its first 60 characters if longer."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def first_repeated(values: Iterable[Any]) -> list[Any]:
    """Return the first value that occurs more than once, in a list, or else an empty list.

    A list tells a repeated value that is None or empty from no repeated value.
    """
    for value, count in Counter(values).items():
        if count > 1:
            return [value]
    return []
