"""Checkpoints of SigLIP and FLAIR are evaluated as any other, FLAIR's also by its pooling."""

import json

import pytest
from typer.testing import CliRunner

from cosmos_core.cli import app
from cosmos_eval.cli.app import main

SHORT = (
    *("optim.steps=3", "optim.batch_size=8", "data.shards=scenes:16", "data.workers=0"),
    *("watch.pictures=false", "compute.precision=fp32", "image.locals=0"),
)
TASKS = ("scenes-retrieval", "scenes-cls", "scenes-seg", "scenes-select")


def evaluated(folder, method, capsys, *words):
    settings = [f"--set={setting}" for setting in (f"method={method}", *SHORT)]
    done = CliRunner().invoke(app, ["train", "scenes_small", *settings, "--output", str(folder)])
    assert done.exit_code == 0, done.output
    datasets = [word for name in TASKS for word in ("--dataset", name)]
    words = [*(words or datasets), "--limit", "6", "--output", str(folder / "results"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["run", "--model", f"cosmos:{folder / 'checkpoint.safetensors'}", *words])
    assert not ended.value.code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["siglip", "flair"])
def test_global_features_serve_all_tasks(tmp_path, method, capsys):
    rows = evaluated(tmp_path / "run", method, capsys)
    assert sorted(row["dataset"] for row in rows) == sorted(TASKS)
    assert all(row["metrics"] for row in rows)


@pytest.mark.slow
def test_pairs_are_ranked_by_what_texts_pool(tmp_path, capsys):
    words = ["--dataset", "scenes-retrieval", "--protocol", "scenes-pairs"]
    (row,) = evaluated(tmp_path / "run", "flair", capsys, *words)
    score = "cosine of the text and of what it pools from the image"
    assert score in json.dumps(row)
    assert 0 <= row["metrics"]["image_to_text_R@1"] <= 1
