"""benchmarks/scenes2_study.py: the files that its workers write."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("scenes2_study")
        for name in ("scenes2_study", "_family"):
            sys.modules.pop(name, None)


def test_results_appear_at_once_or_not_at_all(study, tmp_path):
    new_results, results_folder = tmp_path / "new", tmp_path / "results" / "clip"
    new_results.mkdir()
    (new_results / "a.json").write_text("1")
    (new_results / "a.npz").symlink_to("missing")  # which cannot be copied
    with pytest.raises(shutil.Error):
        study.publish(new_results, results_folder)
    assert not [*results_folder.parent.iterdir()]
    (new_results / "a.npz").unlink()
    (new_results / "a.npz").write_text("2")
    results_folder.mkdir()
    (results_folder / "old.json").touch()
    study.publish(new_results, results_folder)
    assert {path.name: path.read_text() for path in results_folder.iterdir()} == {
        "a.json": "1",
        "a.npz": "2",
    }
    assert [*results_folder.parent.iterdir()] == [results_folder]
    assert not new_results.exists()


def test_descriptions_of_validation_sets_are_written_only_if_they_differ(study, tmp_path):
    study.describe_validation_sets(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["cls.yaml", "retrieval.yaml", "select.yaml"]
    contents = [path.read_text() for path in paths]
    files = [path.stat().st_ino for path in paths]
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].write_text(contents[1][:10])
    study.describe_validation_sets(tmp_path)
    assert [path.read_text() for path in paths] == contents
    for number in (0, 2):
        status = paths[number].stat()
        assert (status.st_ino, status.st_mtime_ns) == (files[number], times[number])
    # It was replaced as a whole: a reader of the old file is not disturbed.
    assert paths[1].stat().st_ino != files[1]
