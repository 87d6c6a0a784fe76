"""Commands as they are without the packages of the extras: they run, or name the extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
EVAL, TRAIN = "cosmos_eval.cli.app", "cosmos_core.cli"
# The modules that each extra brings, by its name.
MODULES = {
    "report": ("vl_convert",),
    "hf": ("transformers", "tokenizers", "sentencepiece"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "s3": ("s3fs", "aiobotocore"),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "slurm": ("submitit",),
}
# The modules of the packages in light.txt. Another package takes the place of OpenCV's.
LIGHT = {
    "opencv-python": (),
    "pycocoevalcap": ("pycocoevalcap",),
    "scikit-learn": ("sklearn",),
    "transformers": ("transformers",),
}

pytestmark = pytest.mark.slow


@pytest.fixture
def run_without(tmp_path):
    """Run a command in an empty folder, as if modules were not installed."""

    def run(modules: tuple[str, ...], program: str, *words: str) -> subprocess.CompletedProcess:
        variables = {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "COSMOS_EVAL_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "1",
        }
        runner = (sys.executable, "-m", "support.without_packages", ",".join(modules))
        return subprocess.run(
            [*runner, program, *words], env={**os.environ, **variables}, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_the_extra_all_is_every_extra_for_users():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    (all_extras,) = map(Requirement, extras["all"])
    assert all_extras.extras == set(MODULES)
    # The package of `corruptions` brings 0.3 GB.
    assert set(extras) == {*MODULES, "corruptions", "all", "train", "docs", "test", "dev"}


def test_a_plain_installation_measures_ranks_compares_and_checks(run_without, tmp_path):
    lines = (ROOT / "light.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == list(LIGHT)
    hidden = (*chain(*LIGHT.values(), *MODULES.values()), "requests")
    models = ("--model", "scenes-cosmos", "--model", "scenes-clip")
    done = run_without(hidden, EVAL, "run", *models, "--limit", "20", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    results = sorted((tmp_path / "runs" / "eval").glob("*.json"))
    assert {json.loads(path.read_text())["task"] for path in results} == {
        "retrieval", "cls", "seg", "select",
    }  # fmt: skip
    packages = json.loads(results[0].read_text())["provenance"]["packages"]
    assert packages["transformers"] is None  # it was hidden
    assert packages["torch"]

    folder = "runs/eval"
    baseline = ("--baseline", "baseline.json")
    for words in (
        ("leaderboard", folder, "--published", "--format", "html", "--output", "board.html"),
        ("compare", folder, "--model", "scenes-cosmos", "--model", "scenes-clip"),
        ("check", folder, *baseline, "--update", "--reason", "a test"),
        ("check", folder, *baseline),
    ):
        done = run_without(hidden, EVAL, *words)
        assert done.returncode == 0, (words, done.stderr)


# Each command with a module that it lacks, and the end of its message.
REFUSED = {
    "report": (
        *("vl_convert", EVAL, f"report {ROOT / 'results'} --output page.html"),
        "cosmos-eval report needs vl-convert: pip install 'cosmos-eval[report]'",
    ),
    "hf": (
        *("transformers", EVAL, "run --model hf:folder --task cls"),
        "it needs transformers: pip install 'cosmos-eval[hf]'",
    ),
    "hf, a tokenizer of OpenCLIP": (
        *("transformers", EVAL, "run --model openclip:ViT-B-16-SigLIP/random --task cls"),
        "it needs transformers: pip install 'cosmos-eval[hf]'",
    ),
    "hf, a guide": (
        "transformers",
        EVAL,
        "run --model scenes-cosmos --task seg --limit 2 --auxiliary hf:folder --attention proxy",
        "it needs transformers: pip install 'cosmos-eval[hf]'",
    ),
    "hf, a conversion": (
        *("transformers", EVAL, "convert scenes-cosmos --output new"),
        "cosmos-eval convert needs transformers: pip install 'cosmos-eval[hf]'",
    ),
    "hf, a training": (
        *("transformers", TRAIN, "scenes_small --set model.init=hf:folder"),
        "it needs transformers: pip install 'cosmos-eval[hf]'",
    ),
    "wandb": (
        *("wandb", TRAIN, "scenes_small --set watch.loggers=[wandb]"),
        "(pip install 'cosmos-eval[wandb]'), everything is in log.jsonl",
    ),
    "tensorboard": (
        *("tensorboard", TRAIN, "scenes_small --set watch.loggers=[tensorboard,wandb]"),
        "(pip install 'cosmos-eval[tensorboard]'), everything is in log.jsonl",
    ),
    "s3, shards": (
        *("s3fs", TRAIN, "scenes_small --set data.shards=s3://bucket/0.tar"),
        "; pip install 'cosmos-eval[s3]'",
    ),
    "s3, copies": (
        *("s3fs", TRAIN, "scenes_small --set save.remote=s3://bucket/run"),
        "; pip install 'cosmos-eval[s3]'",
    ),
    "parquet": (
        *("pyarrow", EVAL, f"export {ROOT / 'results'} --output table.parquet"),
        "Parquet needs pyarrow: pip install 'cosmos-eval[parquet]', or export to .csv",
    ),
    "ray": (*("ray", EVAL, "run --executor ray"), "pip install 'cosmos-eval[ray]'"),
    "slurm": (*("submitit", EVAL, "run --executor slurm"), "pip install 'cosmos-eval[slurm]'"),
}


def test_a_corruption_names_its_extra(run_without, tmp_path):
    pytest.importorskip("imagecorruptions")
    for name in ("red", "blue"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), name).save(tmp_path / "images" / name / "1.png")
    (tmp_path / "own.yaml").write_text("kind: cls\nfolder: images\ncorruption: fog\n")
    command = ("run", "--dataset", "own.yaml", "--model", "scenes-clip")
    done = run_without(("imagecorruptions",), EVAL, *command)
    assert done.returncode == 2
    message = "a corruption needs imagecorruptions-imaug: pip install 'cosmos-eval[corruptions]'"
    assert message in " ".join(done.stderr.split())


def test_only_label_maps_need_mmsegmentation(run_without):
    hidden = ("mmseg", "mmcv", "mmengine")
    names = ("scenes-retrieval", "scenes-cls", "scenes-select", "scenes-boxes", "scenes-probe")
    datasets = [word for name in names for word in ("--dataset", name)]
    done = run_without(hidden, EVAL, "run", *datasets, "--model", "scenes-cosmos", "--limit", "20")
    assert done.returncode == 0, done.stderr
    for module in hidden:
        done = run_without((module,), EVAL, "run", "--task", "seg", "--model", "scenes-cosmos")
        assert done.returncode == 2
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("cosmos-eval: ")]
        assert "label maps need MMSegmentation, which lacks a package (No module named" in error
        assert error.endswith(
            "pip install 'mmsegmentation==1.2.2' 'mmcv-lite<2.2' 'mmengine<0.11' ftfy regex"
        )


@pytest.mark.parametrize("case", REFUSED)
def test_a_command_names_the_extra_that_it_lacks(case, run_without, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "clip"}')
    module, program, command, message = REFUSED[case]
    done = run_without((module,), program, *command.split())
    assert done.returncode == 2, done.stderr
    # Lines of progress come before.
    errors = [line for line in done.stderr.splitlines() if line.startswith("cosmos-")]
    assert len(errors) == 1, done.stderr
    assert errors[0].endswith(message)
    assert "Traceback" not in done.stderr
    assert {case.partition(",")[0] for case in REFUSED} == set(MODULES)
