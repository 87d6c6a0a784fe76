"""Retrieval examples of models that score pairs of an image and a text."""

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


def test_ranks_of_a_model_that_scores_pairs_agree_with_the_stored_ones(file, tmp_path, monkeypatch):
    (path,) = measure(tmp_path / "results", "scenes-cosmos", file, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(queries, "_MOST_PAIRS", 0)  # all of them are cached
    examples = gallery([path], file, cache=str(tmp_path / "cache"))
    assert examples.notes == ()
    samples = samples_of(path, read_files(path))
    ranks_by_direction: dict[str, list[int]] = {}
    for example in examples.retrieval:
        ranks_by_direction.setdefault(example.direction, []).append(example.rank)
        assert example.retrieved
        assert (example.rank <= len(example.retrieved)) == any(example.right)
        if example.rank <= len(example.retrieved):
            assert example.right.index(True) == example.rank - 1
    for direction, ranks in ranks_by_direction.items():
        assert set(ranks) <= set(samples[f"{direction}_rank"].tolist())
        assert max(ranks) == np.max(samples[f"{direction}_rank"])
    (note,) = gallery([path], file).notes
    assert "pairs are not cached, so measure again without --no-cache" in note
