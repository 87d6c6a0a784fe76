"""Checkpoints of SigLIP and FLAIR are evaluated as any other, FLAIR's also by its pooling."""

import json
from functools import cache

import pytest
from typer.testing import CliRunner

from cosmos_core.cli import app
from cosmos_eval.cli.app import main

SHORT = (
    *("optim.steps=3", "optim.batch_size=8", "data.shards=scenes:16", "data.workers=0"),
    *("watch.pictures=false", "compute.precision=fp32", "image.locals=0"),
)
TASKS = ("scenes-retrieval", "scenes-cls", "scenes-seg", "scenes-select")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the checkpoint of a short training by a method."""

    @cache
    def train(method):
        folder = tmp_path_factory.mktemp(method)
        words = [f"--set={setting}" for setting in (f"method={method}", *SHORT)]
        done = CliRunner().invoke(app, ["train", "scenes_small", *words, "--output", str(folder)])
        assert done.exit_code == 0, done.output
        return folder / "checkpoint.safetensors"

    return train


def evaluated(checkpoint, output, capsys, *words):
    words = [*words, "--limit", "6", "--output", str(output), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["run", "--model", f"cosmos:{checkpoint}", *words])
    assert not ended.value.code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["siglip", "flair"])
def test_global_features_serve_all_tasks(trained, tmp_path, method, capsys):
    datasets = [word for name in TASKS for word in ("--dataset", name)]
    rows = evaluated(trained(method), tmp_path, capsys, *datasets)
    assert sorted(row["dataset"] for row in rows) == sorted(TASKS)
    assert all(row["metrics"] for row in rows)


@pytest.mark.slow
def test_pairs_are_ranked_by_what_texts_pool(trained, tmp_path, capsys):
    words = ["--dataset", "scenes-retrieval", "--protocol", "scenes-pairs"]
    (row,) = evaluated(trained("flair"), tmp_path, capsys, *words)
    score = "cosine of the text and of what it pools from the image"
    assert score in json.dumps(row)
    assert 0 <= row["metrics"]["image_to_text_R@1"] <= 1
