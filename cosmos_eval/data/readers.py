"""Read users' files: bytes, text, JSON, JSON lines, tables, YAML, checked by pydantic models."""

import ast
import csv
import io
import os
import pickle
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

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

# Tags that tell pydantic which type to check if a field may be a text or a list of texts. Pydantic
# adds them to the path of a field in its errors; error messages leave them out.
LIST, TEXT = "<list>", "<text>"

# Our messages for pydantic's types of errors, if they say more than pydantic's own.
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
    """Raised for a fault in a file. The message says what is wrong and does not name the file."""


class MissingFileError(FileError):
    """Raised for a file that does not exist."""


@contextmanager
def report_faults_at(location: str) -> Iterator[None]:
    """Turn a FileError in the block into a UsageError whose message begins with `location`.

    Example:
        `with report_faults_at("a.json: "):` turns the message `is not JSON` into
        `a.json: is not JSON`.
    """
    try:
        yield
    except FileError as error:
        raise UsageError(f"{location}{error}") from error


def path_of(value: Any, name: str) -> Path:
    """Return the path that a user gave to a public function.

    Args:
        value: The value that the user gave.
        name: Its name in messages, such as `output`.

    Raises:
        UsageError: If the value is neither a text nor an object such as a `pathlib.Path`, and if it
            is an empty text, which Python would read as the current folder.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(
            f"{name} must be a path, as a str or a pathlib.Path, not {type(value).__name__}"
        )
    if value == "":
        raise UsageError(f"{name} is empty: write . for the current folder")
    return Path(value)


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Return the bytes of a file.

    Args:
        path: The path of the file.
        largest: The largest size that is read, in bytes.

    Raises:
        MissingFileError: If the file does not exist.
        FileError: If it cannot be read, is too large, or is not a regular file.
    """
    if "\0" in str(path):  # for which the system calls raise ValueError
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
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raise FileError if the file is not UTF-8, and for every reason of `read_bytes`.
    """
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"is not UTF-8 text: {error}; save it as UTF-8") from error


def parse_json(content: str | bytes) -> Any:
    """Return the value that a JSON text holds, such as a dictionary or a list.

    Raise FileError for text that is not JSON.
    """
    try:
        return text.parse_json(content)
    except ValueError as error:
        raise FileError(f"is not JSON: {error}") from error


def read_json(path: Path) -> Any:
    """Return the value of a JSON file in UTF-8, UTF-16 or UTF-32.

    Raise FileError if the file cannot be read or is not JSON.
    """
    return parse_json(read_bytes(path))


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of numbers, texts and containers, and refuses everything else."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        """Raise FileError: a pickle that names a class or a function could run code."""
        raise FileError(f"names {module_name}.{global_name}: only plain values are read")


def read_plain_pickle(path: Path) -> Any:
    """Return the value in a pickle of numbers, texts, lists and dictionaries.

    Raise FileError if the file cannot be read, is not a pickle, or holds any other object, which
    could run code.
    """
    content = read_bytes(path)
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except FileError:
        raise
    except Exception as error:  # pickle documents no complete list of what broken files raise
        raise FileError(f"is not a pickle: {error}") from error


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the location and the value of every entry of a table, JSON lines, or JSON file.

    The location names the entry in error messages. The suffix decides how a file is read:

    - .csv, .tsv: `("line 2", {"image": "1.jpg", "caption": "A dog"})`, a dictionary of texts,
    - .jsonl, .jsonlines: `("line 1", value)`,
    - .json with a list: `("record 0", value)`,
    - .json with an object: `("record KEY", value)`.

    Raise FileError for another suffix and for a broken file.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".jsonlines"):
        for line_number, line in lines(read_text(path)):
            try:
                yield f"line {line_number}", parse_json(line)
            except FileError as error:
                raise FileError(f"line {line_number}: {error}") from error
    elif suffix in (".csv", ".tsv"):
        yield from _read_table_rows(read_text(path))
    elif suffix == ".json":
        content = read_json(path)
        if isinstance(content, list):
            for index, entry in enumerate(content):
                yield f"record {index}", entry
        elif isinstance(content, dict):
            for key, entry in content.items():
                yield f"record {key}", entry
        else:
            raise FileError("must hold a list of records, or an object of them")
    else:
        raise FileError("must be a .json, .jsonl, .csv or .tsv file")


def parse_list(cell: Any) -> Any:
    """Return the value that is written in a cell of a table, which should be a list.

    The text may be in JSON's or in Python's syntax. The caller checks whether the value is a list.
    A cell that is not text is returned as it is. Raise FileError for text in another syntax.

    Example:
        Both the text `["a", "b"]` and the text `['a', 'b']` give the list `["a", "b"]`.
    """
    if not isinstance(cell, str):
        return cell
    with suppress(FileError):
        return parse_json(cell)

    # The text is not JSON.
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise FileError(f"must be a list as Python writes it: {error}") from None


def lines(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield the number, from 1, and the stripped text of every line that is not blank.

    Only a line feed ends a line, unlike for `str.splitlines`, since a caption may hold other
    separators such as U+2028.

    Example:
        `"a\n\n b"` gives `(1, "a")` and `(3, "b")`.
    """
    for line_number, line in enumerate(text.split("\n"), start=1):
        stripped_line = line.strip()
        if stripped_line:
            yield line_number, stripped_line


def _read_table_rows(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the location and the fields of every row of a table with a header.

    Columns are separated by commas, or by tabs if the header has a tab, as in OpenCLIP's .csv
    files. Blank lines are skipped. Raise FileError for a broken table.

    Example:
        The table with the lines `image,caption` and `1.jpg,A dog` gives
        `("line 2", {"image": "1.jpg", "caption": "A dog"})`.
    """
    first_line = text.partition("\n")[0]
    separator = "\t" if "\t" in first_line else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        # The first row has the names of the columns.
        header = next(reader, [])
        if len(header) == 1 and ";" in header[0]:
            raise FileError("line 1: columns are separated by semicolons: use commas or tabs")
        if repeated := first_repeated(header):
            raise FileError(f"line 1: column {repeated[0]} is listed twice")

        for row in reader:
            if not row:  # a blank line
                continue
            if len(row) != len(header):
                raise FileError(
                    f"line {reader.line_num}: {len(row)} fields, but the header has "
                    f"{len(header)}; a field that holds the separator stands in double quotes"
                )
            yield f"line {reader.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise FileError(f"line {reader.line_num}: {error}") from error


def read_yaml(path: Path, example: str) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Args:
        path: The path of the file.
        example: A line of such a file, such as `dataset: coco`, for the error message.

    Raises:
        FileError: If the file cannot be read, or if it holds anything else than keys and values.
    """
    try:
        content = yaml.load(read_text(path, _MAX_YAML_BYTES), _Loader)
    except RecursionError:
        raise FileError("is not YAML: it is nested too deeply") from None
    except yaml.YAMLError as error:
        # Put PyYAML's message on one line, without its name of the text.
        reason = " ".join(str(error).split()).replace(' in "<unicode string>"', "")
        raise FileError(f"is not YAML: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FileError(f"must hold keys and values, such as `{example}`")
    return content


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses repeated keys, broken scalars, and too many values."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node.

        Raise FileError for a scalar that is not valid, such as the date 2024-99-99. PyYAML raises
        errors of many types for such scalars.
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
        """Return the dictionary of a node. Raise FileError for a key that is given twice."""
        # Copy the pairs as the file has them: PyYAML replaces a merge key (`<<`) in the node by the
        # keys that it stands for. Those may be given again in the file, which is not a fault.
        written_pairs = list(node.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=True)
        written_keys = [self.construct_object(key) for key, _ in written_pairs]
        if repeated := first_repeated(written_keys):
            raise FileError(f"key {shortened(repeated[0])} is given twice")
        return mapping

    def get_single_node(self) -> yaml.Node | None:
        """Return the root node. Raise FileError if it stands for too many values."""
        node = super().get_single_node()
        if node is not None:
            _count_values(node, {})
        return node


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the number of values that a YAML node stands for, if aliases are written out.

    A short file can stand for very many values by aliases of aliases. Every node is visited only
    once.

    Args:
        node: A text or number, a list, or a mapping, with everything in it.
        counts: The results for the nodes that were visited already, by their ids. Results are added
            to it.

    Raises:
        FileError: If there are more than a million values.

    Example:
        The list `[1, [2, 3]]` stands for 5 values: three numbers and two lists.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        # A node that contains itself stands for endlessly many values. When it is reached again
        # below, this count makes it exceed the limit.
        counts[id(node)] = _MAX_YAML_VALUES
        count = 1  # the node itself
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
    """Check the content of a file, and return it as an instance of a pydantic model.

    Args:
        model: The pydantic model, which states the keys of the file and the types of their values.
        content: The keys and values in the file.

    Raises:
        FileError: If the content does not fit the model. The message is one line about the first
            fault, or about the first unknown key if there is one.

    Example:
        `{"n_images": "5"}` gives the message "`n_images` must be a whole number, not '5'" if the
        model declares `n_images: int`.
    """
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)

    # If a key is misspelt, there is also a fault for the missing key: report the unknown key.
    unknown_key_faults = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault = unknown_key_faults[0] if unknown_key_faults else faults[0]
    path = _format_field_path(fault["loc"])  # such as `classes[2].queries`

    if fault["type"] == "missing":
        raise FileError(f"`{path}` is missing")
    if fault["type"] == "extra_forbidden":
        is_top_level = path == fault["loc"][0]
        # The only records below the top level are the classes of a label map.
        known_keys = list(model.model_fields) if is_top_level else ["name", "queries"]
        unknown_key = path.rpartition(".")[2]
        nearest_keys = nearest(unknown_key, known_keys)
        raise FileError(f"unknown key `{path}`; nearest known: {nearest_keys}")

    message = _MESSAGES.get(fault["type"])
    if message is None:
        # "Input should be less than 1" becomes "must be less than 1".
        message = fault["msg"].removeprefix("Input ").replace("should", "must", 1)
    raise FileError(f"`{path}` {message}, not {shortened(fault['input'])}")


def _format_field_path(location: Sequence[int | str]) -> str:
    """Return the path of a field as users write it, from the location in pydantic's error.

    Tags of types, which pydantic adds to the location, are left out.

    Example:
        `("classes", 2, "queries", "<list>")` becomes `classes[2].queries`.
    """
    path = str(location[0])
    for step in location[1:]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in (LIST, TEXT):
            path += f".{step}"
    return path


def shortened(value: Any) -> str:
    """Return the `repr` of a value for an error message.

    If it has more than 60 characters, it is cut, and `...` follows.
    """
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def first_repeated(values: Iterable[Any]) -> list[Any]:
    """Return a list with the first value that occurs more than once, or an empty list.

    The result is a list because the repeated value itself may be None or empty.

    Example:
        `["a", "b", "b"]` gives `["b"]`, and `["a", "b"]` gives `[]`.
    """
    for value, count in Counter(values).items():
        if count > 1:
            return [value]
    return []
