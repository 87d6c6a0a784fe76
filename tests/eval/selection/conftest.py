"""Tiny selection sets on the disk, in the layouts of the published ones."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cosmos_eval.protocols.retrieval import RETRIEVAL
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.types import RetrievalProtocol, SelectionProtocol


@pytest.fixture
def make_set(tmp_path: Path, save_colour: Callable[..., Path]) -> Callable[..., SelectionProtocol]:
    """Writes images of one colour (name -> colour) and annotations; returns their protocol.

    Annotations are written by the file's suffix: rows of a table to .csv, a record a line to
    .jsonl, anything to .json, text as it is; a mapping of file names to contents as a folder.
    """

    def make(
        images: dict[str, str], annotations: Any, file: str = "items.json", **fields: Any
    ) -> SelectionProtocol:
        for name, colour in images.items():
            save_colour(tmp_path / "images" / name, colour)
        path = tmp_path / file
        if path.suffix:
            _write(path, annotations)
        else:
            path.mkdir()
            for name, content in annotations.items():
                _write(path / name, content)
        fields = {"layout": "items", **fields}
        return SelectionProtocol(
            dataset="mine",
            protocol_name="test",
            root=str(tmp_path),
            images="images",
            annotations=file,
            **fields,
        )

    return make


def _write(path: Path, content: Any) -> None:
    if isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as out:
            csv.writer(out).writerows(content)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(record)}\n" for record in content))
    else:
        path.write_text(json.dumps(content))


@pytest.fixture
def known_set(
    tmp_path: Path, save_colour: Callable[..., Path]
) -> Callable[..., SelectionProtocol | RetrievalProtocol]:
    """Writes files and images of one colour by their paths below the data root, as the page of a
    known set has them; returns its protocol, with the root and other `changes`."""

    def make(
        name: str, files: dict[str, Any], images: dict[str, str], **changes: Any
    ) -> SelectionProtocol | RetrievalProtocol:
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            _write(tmp_path / path, content)
        for path, colour in images.items():
            save_colour(tmp_path / path, colour)
        return replace({**SELECTION, **RETRIEVAL}[name], root=str(tmp_path), **changes)

    return make
