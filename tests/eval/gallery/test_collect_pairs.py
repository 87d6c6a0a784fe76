"""Queries of retrieval by scores of pairs: what is shown is what was ranked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.galleries import gallery, measure
from support.scene_files import write_scenes

from cosmos_eval.reporting.gallery import retrieval as queries
from cosmos_eval.results.store import read_files, samples_of


@pytest.fixture(params=["3", "all"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (path,) = map(Path, write_scenes(tmp_path / "scenes", 8, "found"))
    path.write_text(f"{path.read_text()}pairs: {request.param}\n")
    return path


def test_queries_by_pairs(file, tmp_path, monkeypatch):
    (path,) = measure(tmp_path / "results", "scenes-cosmos", file, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(queries, "_MOST_PAIRS", 0)  # all of them are cached
    found = gallery([path], file, cache=str(tmp_path / "cache"))
    assert found.notes == ()
    samples = samples_of(path, read_files(path))
    shown = {one.direction: [] for one in found.retrieval}
    for one in found.retrieval:
        shown[one.direction].append(one.rank)
        assert one.retrieved
        assert (one.rank <= len(one.retrieved)) == any(one.right)
        if one.rank <= len(one.retrieved):
            assert one.right.index(True) == one.rank - 1
    for direction, ranks in shown.items():
        assert set(ranks) <= set(samples[f"{direction}_rank"].tolist())
        assert max(ranks) == np.max(samples[f"{direction}_rank"])
    (note,) = gallery([path], file).notes
    assert "pairs are not cached, so measure again without --no-cache" in note
