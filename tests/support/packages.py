"""Packages that count as installed: a folder with the metadata that installers write."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from cosmos_eval import tasks


def install(folder: Path, name: str, tasks: Mapping[str, str], version: str = "0.1") -> None:
    """Write the metadata of a package that brings tasks; `folder` is to be on the path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{task} = {place}" for task, place in tasks.items()]
    (info / "entry_points.txt").write_text("\n".join(["[cosmos_eval.tasks]", *lines, ""]))


def forget_tasks(*modules: str) -> None:
    """Look for installed tasks again, and import these modules again."""
    tasks._find_installed_tasks.cache_clear()
    tasks._load_task.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
        del sys.modules[name]
