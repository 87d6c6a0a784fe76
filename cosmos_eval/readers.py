"""Users' YAML files as keys and values, and what is wrong with them. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class FileError(Exception):
    """What is wrong in a file, without the file's name."""


class _Loader(yaml.SafeLoader):
    """YAML without its silent acceptance of a key given twice."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    repeated = [key for key in keys if keys.count(key) > 1]
    if repeated:
        raise FileError(f"key {repeated[0]!r} is given twice")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, example: str) -> dict[str, Any]:
    """The keys and values of a file. Raises FileError; `example` is a line that it may hold."""
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
    except FileNotFoundError:
        raise FileError("no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise FileError(f"is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FileError(f"must hold keys and values, such as `{example}`")
    return content
