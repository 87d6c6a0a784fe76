"""The notebook of examples/ runs from its first cell to its last one."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def stored() -> Any:
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def test_outputs_are_stripped(stored):
    import nbformat

    nbformat.validate(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}


@pytest.mark.slow
def test_every_cell_runs(stored, tmp_path, monkeypatch):
    import pandas as pd
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    resources = {"metadata": {"path": str(tmp_path)}}
    done = NotebookClient(stored, timeout=300, resources=resources).execute()
    *_, results, samples, features = (cell for cell in done.cells if cell.cell_type == "code")
    tables = [cell.outputs[-1].data for cell in (results, samples, features)]
    assert "acc1" in tables[0]["text/plain"]
    assert "prediction_clip" in tables[1]["text/plain"]
    text = StringIO(tables[2]["text/plain"])
    similarity = pd.read_csv(text, sep=r"\s{2,}", engine="python", index_col=0)
    # Each picture is most alike the text about its colour.
    assert list(similarity.idxmax(axis=1)) == ["a red ball", "a blue ball"]
    assert len(list((tmp_path / "runs/notebook").glob("*.json"))) == 2
