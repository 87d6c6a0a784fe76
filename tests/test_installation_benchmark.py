"""benchmarks/installation.py: weights of packages that a test makes up, by hand."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "installation.py"
# Requirements of made-up packages, by their names.
REQUIRES = {
    "made-tool": ["Made.Library>=1", 'made-windows; sys_platform == "win32"', 'x; extra == "more"'],
    "made-library": ["made-base"],
    "made-other": ["made-base"],
    "made-base": [],
}


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.syspath_prepend(tmp_path)
    for name, requirements in REQUIRES.items():
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = [f"Requires-Dist: {requirement}" for requirement in requirements]
        head = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines, ""]
        (info / "METADATA").write_text("\n".join(head))
        (tmp_path / f"{name}.py").write_bytes(b"#" * 1_500_000)
        (info / "RECORD").write_text(f"{name}.py,,\nis_gone.py,,\n")
    return runpy.run_path(str(SCRIPT))


def test_required_packages_are_all_that_are_installed_for_a_requirement(benchmark):
    required = benchmark["required_packages"]
    assert required([Requirement("made-tool")]) == {"made-tool", "made-library", "made-base"}
    assert required([Requirement("made_other")]) == {"made-other", "made-base"}


def test_sizes_are_those_of_the_files_that_exist(benchmark):
    assert benchmark["megabytes"](["made-tool", "made-base"]) == 3.0


def test_what_goes_alone(benchmark, monkeypatch):
    """The base stays as long as one of two needs it; the extra adds what is not there."""
    weigh = benchmark["weigh"]
    requirements = {"plain": [Requirement("made-tool"), Requirement("made-base")]}
    requirements["more"] = [Requirement("made-other")]
    monkeypatch.setitem(weigh.__globals__, "requirements_by_extra", lambda: requirements)
    alone = {row.package: (row.extra, row.alone_packages, row.alone_megabytes) for row in weigh()}
    assert alone == {
        "made-tool": ("plain", 2, 3.0),
        "made-base": ("plain", 0, 0.0),
        "made-other": ("more", 1, 1.5),
    }


def test_imported_modules_by_their_top_level_names(benchmark):
    code = "import os.path\nfrom .near import x\ndef f():\n    from rich.table import Table\n"
    assert benchmark["imported_modules"](ast.parse(code)) == {"os", "rich"}


def test_the_projects_requirements_are_those_of_pyproject(benchmark):
    requirements = benchmark["requirements_by_extra"]()
    assert [each.name for each in requirements["report"]] == ["vl-convert-python"]
    assert "vl-convert-python" not in [each.name for each in requirements["plain"]]
