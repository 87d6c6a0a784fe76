"""A training method in a file of the user's, up to a checkpoint and its export."""

import json
from dataclasses import asdict
from pathlib import Path

import open_clip
import pytest
import torch

import cosmos_core
from cosmos_core.engine.loggers import read_log
from cosmos_core.engine.snapshot import SnapshotError
from cosmos_core.engine.trainer import Trainer
from cosmos_core.model.checkpoint import read_checkpoint
from cosmos_core.model.export import export
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_core.utils.recipe import training_identity

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_method.py"
SHORT = (
    *("optim.steps=2", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
    *("watch.log_every=1", "compute.precision=fp32", "save.every=1"),
)
# With a parameter, a module, and a head that checkpoints leave out.
OWN = """
from dataclasses import dataclass
import torch
from cosmos_core import LossTerms
from cosmos_core.methods.clip import ClipMethod, clip_features

@dataclass(frozen=True)
class Own(ClipMethod):
    name: str = "own"
    terms = ("push", "clip")

    def create_student(self, architecture):
        student = super().create_student(architecture)
        student.gain = torch.nn.Parameter(torch.tensor(2.0))
        student.adapters = torch.nn.ModuleDict({"text": torch.nn.Linear(128, 128)})
        student.head = torch.nn.Linear(128, 3)
        return student

    def student_features(self, student, views):
        features = clip_features(student, views)
        text = student.adapters["text"](features.text) * student.gain
        return features._replace(text=text, head=student.head(features.image))

    def loss(self, student, teacher, gather):
        clip = super().loss(student, teacher, gather).clip
        return LossTerms(clip=clip, push=student.head.square().mean())
"""


def chosen(path, *settings):
    return override(RECIPES["scenes_clip"](), [*SHORT, f"method={path}", *settings])


def group(config):
    return training_identity({"config": asdict(config)})["group"]


@pytest.mark.slow
def test_the_example_trains_and_its_terms_are_logged(setting, scene_shards):
    config = chosen(EXAMPLE, "method.weight=0.5")
    assert (config.method.name, config.method.weight) == ("uniform-clip", 0.5)
    Trainer(config, setting).run(scene_shards)
    records = read_log(setting.output / "log.jsonl")
    assert [{"clip", "uniformity", "total"} <= record.keys() for record in records] == [True] * 2
    assert not {"distill", "simclr"} & records[0].keys()
    assert records[0]["total"] == pytest.approx(records[0]["clip"] + records[0]["uniformity"])
    model = cosmos_core.load_model(setting.output / "checkpoint.safetensors")
    assert model.encode_text(torch.ones(1, 16, dtype=torch.long)).shape == (1, 128)


@pytest.mark.slow
def test_added_parameters_are_stored_loaded_and_exported(setting, scene_shards, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    trainer = Trainer(chosen(file), setting)
    trainer.run(scene_shards)
    trained = {key: value.clone() for key, value in trainer._training.model.state_dict().items()}
    path = setting.output / "checkpoint.safetensors"
    assert read_checkpoint(path).added == ("gain", "adapters.text.weight", "adapters.text.bias")
    export(path, tmp_path / "exported")
    for stored in (path, tmp_path / "exported" / "cosmos.safetensors"):
        loaded = cosmos_core.load_model(stored, weights="student").state_dict()
        assert {key for key in trained if not key.startswith("head.")} == loaded.keys()
        assert all(torch.equal(loaded[key], trained[key]) for key in loaded)
    described = json.loads((tmp_path / "exported" / "open_clip_config.json").read_text())
    plain, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'exported'}")
    assert plain.state_dict().keys() == open_clip.CLIP(**described["model_cfg"]).state_dict().keys()
    file.write_text(OWN.replace("2.0", "3.0"))  # another method under the same name
    with pytest.raises(SnapshotError, match="method_sha256 is"):
        Trainer(chosen(file), setting, resume=True)


def test_the_content_of_the_file_decides_the_group(tmp_path):
    file, copy = tmp_path / "own.py", tmp_path / "copy.py"
    for path in (file, copy):
        path.write_text(OWN)
    group_of_file = group(chosen(file))
    assert group_of_file == group(chosen(copy))
    copy.write_text(f"{OWN}\n")
    assert group_of_file != group(chosen(copy))
    assert group(chosen(file, "method=clip")) == group(override(RECIPES["scenes_clip"](), SHORT))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "own.py defines 0 classes with a method `loss`: define exactly one"),
        (OWN + OWN.replace("Own", "Other"), "defines 2 classes with a method `loss`"),
        (
            "class Own:\n    name, loss = 'own', 1",
            "method Own lacks counts, terms, create_student,",
        ),
        ("import nowhere_to_be_found", "own.py: ModuleNotFoundError: No module named"),
        ("def f(:", "own.py: SyntaxError: invalid syntax"),
    ],
)
def test_files_that_hold_no_method_are_refused_in_a_line(tmp_path, text, message):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"^--set method: ") as caught:
        chosen(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
