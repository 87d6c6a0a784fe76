"""The examples for training loops of OpenCLIP, transformers and Lightning, with tiny models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from support.hooked import tiny_model
from support.scene_files import write_scenes
from torch import Tensor

from cosmos_eval import Evaluation

ROOT = Path(__file__).parents[1]
ARCH = "cosmos-eval-loop"
LOGS = ("--logs", "logs", "--name", "run")
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def arch(tmp_path: Path) -> str:
    path = tmp_path / "configs" / f"{ARCH}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path.parent)
    return ARCH


@pytest.fixture
def classes(tmp_path: Path) -> str:
    return write_scenes(tmp_path / "scenes", 20, "named")[0]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))


@pytest.mark.slow
def test_openclip_train(tmp_path, arch, classes):
    """The patch applies to the installed open_clip_train, whose training then logs our metrics."""
    installed = Path(str(find_spec("open_clip_train").submodule_search_locations[0]))
    package = shutil.copytree(installed, tmp_path / "patched" / "open_clip_train")
    patch = (ROOT / "examples" / "openclip_train.patch").read_bytes()
    subprocess.run(["git", "apply", "-"], cwd=package.parent, input=patch, check=True)
    source = (
        (package / "train.py")
        .read_text()
        .replace('["scenes-cls", "scenes-retrieval"]', f"[{classes!r}], output='results'")
    )
    (package / "train.py").write_text(source)
    start = (
        f"import open_clip; open_clip.add_model_config({str(tmp_path / 'configs')!r}); "
        "from open_clip_train.main import main; import sys; main(sys.argv[1:])"
    )
    pictures = sorted((tmp_path / "scenes" / "folder").rglob("*.jpg"))[:8]
    pairs = ["filepath,title", *(f"{path},a {path.parent.name}" for path in pictures)]
    (tmp_path / "pairs.csv").write_text("\n".join(pairs))
    data = "--train-data pairs.csv --val-data pairs.csv --dataset-type csv --csv-separator ,"
    options = f"--model {arch} --batch-size 4 --epochs 2 --workers 0 --val-frequency 9"
    process = subprocess.run(
        [sys.executable, "-c", start, *data.split(), *options.split(), *LOGS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    results = (tmp_path / "logs" / "run" / "checkpoints" / "results.jsonl").read_text()
    lines = [json.loads(line) for line in results.splitlines()]
    stored = [
        json.loads(path.read_text()) for path in sorted((tmp_path / "results").glob("*.json"))
    ]
    assert [result["model"]["step"] for result in stored] == [1, 2]
    for line, result in zip(lines, stored, strict=True):
        assert line["named/acc1"] == result["metrics"]["acc1"]
    assert "named/acc1" in process.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_transformers_trainer(tmp_path, classes, example):
    import transformers
    from loop_transformers import EvaluationCallback

    class Trained(transformers.CLIPModel):
        """CLIP that returns its loss, which the trainer needs."""

        def forward(self, **inputs: Tensor) -> Any:
            return super().forward(**inputs, return_loss=True)

    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes = {**text, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "max_position_embeddings": 20, "vocab_size": 49408},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = Trained(config)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    openai = open_clip.SimpleTokenizer()
    merges = sorted(openai.bpe_ranks, key=openai.bpe_ranks.__getitem__)
    words = [*[*openai.encoder][:-2], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = transformers.CLIPTokenizer(vocabulary, merges, model_max_length=20)
    pairs = [
        {"pixel_values": torch.rand(3, 32, 32), "input_ids": torch.randint(0, 900, (20,))}
        for _ in range(8)
    ]
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=4,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            remove_unused_columns=False,
            logging_steps=100,
        ),
        train_dataset=pairs,
    )
    evaluation = Evaluation([classes], every=2, on_error="raise")
    trainer.add_callback(EvaluationCallback(trainer, evaluation, tokenizer, processor))
    trainer.train()
    logged = {line["step"]: line for line in trainer.state.log_history if "named/acc1" in line}
    assert sorted(logged) == [2, 4]
    final = Evaluation([classes], on_error="raise")(
        model, tokenizer=tokenizer, transform=processor, step=4
    )
    assert {name: logged[4][name] for name in final} == final


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning(tmp_path, arch, classes, example):
    from lightning import pytorch as pl
    from loop_lightning import EvaluationCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_model(arch)

        def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
            image_features, text_features, scale = self.model(*batch)[:3]
            return -(scale * image_features @ text_features.T).diag().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    pairs = torch.utils.data.TensorDataset(torch.rand(16, 3, 32, 32), torch.randint(1, 9, (16, 20)))
    tokenizer = open_clip.get_tokenizer(arch)
    evaluation = Evaluation([classes], every=2, on_error="raise", best="named/acc1")
    module = Module()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=2,
        callbacks=[
            EvaluationCallback(evaluation, tokenizer),
            pl.callbacks.ModelCheckpoint(
                dirpath=tmp_path / "best", monitor="named/acc1", mode="max", every_n_train_steps=2
            ),
        ],
        logger=pl.loggers.CSVLogger(tmp_path),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(pairs, batch_size=2))
    assert trainer.global_step == 4
    final = Evaluation([classes], on_error="raise")(module.model, tokenizer=tokenizer, step=4)
    logged = {name: float(trainer.callback_metrics[name]) for name in final}
    assert logged == pytest.approx(final, abs=1e-6)
    assert evaluation.best_value is not None
    (path,) = (tmp_path / "best").glob("*.ckpt")
    # The checkpoint is written in the step of the best value, after it was measured.
    state = torch.load(path, weights_only=True)["callbacks"]["EvaluationCallback(model)"]
    assert state == evaluation.state_dict()
    resumed = Evaluation([classes], every=2, best="named/acc1", on_error="raise")
    trainer = pl.Trainer(
        max_steps=evaluation.best_step,  # no step more
        accelerator="cpu",
        callbacks=[EvaluationCallback(resumed, tokenizer)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    pairs = torch.utils.data.DataLoader(pairs, batch_size=2)
    trainer.fit(Module(), pairs, ckpt_path=path, weights_only=True)
    assert resumed.best_step == evaluation.best_step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning_takes_several_evaluations(classes, example):
    from lightning import pytorch as pl
    from loop_lightning import EvaluationCallback

    callbacks = []
    for name in ("often", "seldom"):
        evaluation = Evaluation([classes], name=name)
        callbacks.append(EvaluationCallback(evaluation, tokenizer=None))
    trainer = pl.Trainer(callbacks=callbacks, accelerator="cpu", logger=False)
    keys = [
        callback.state_key
        for callback in trainer.callbacks
        if isinstance(callback, EvaluationCallback)
    ]
    assert keys == ["EvaluationCallback(often)", "EvaluationCallback(seldom)"]


def test_the_docs_show_the_whole_patch():
    page = (ROOT / "docs" / "your-loop.md").read_text("utf-8")
    patch = (ROOT / "examples" / "openclip_train.patch").read_text("utf-8")
    assert f"```diff\n{patch}```" in page
