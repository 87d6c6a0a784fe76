"""Few rendered scenes that are recorded here: tests then need no version of OpenCV."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.benchmark_modules import import_benchmarks

from cosmos_eval.protocols import scene_files, scenes2


def record_scenes(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Record parts of the rendered scenes, such as `scenes2-test`, as they are rendered now.

    `folder` gets the lists of hashes. Set the numbers of scenes before.
    """
    monkeypatch.setattr(scene_files, "FOLDER", folder)
    folder.mkdir()
    monkeypatch.setattr(scenes2, "_hash_lists", lambda: "recorded by a test")
    with import_benchmarks("record_scenes") as (module,):
        parts = module.version_2_parts()
        for name in names:
            module.record(name, parts[name])
