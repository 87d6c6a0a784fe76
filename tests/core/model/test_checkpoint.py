"""Checkpoint files: those of the published training, those of this package, and refused ones."""

import json
import re
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import cosmos_core
from cosmos_core.model.checkpoint import save_checkpoint

PARITY = Path(__file__).parents[2] / "parity"
CONFIG = json.loads((PARITY / "model_config.json").read_text())
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def save(tmp_path):
    """A function that writes a teacher as cosmos-train does, and returns the path."""

    def save_teacher(kind="cosmos", method="cosmos", architecture=TINY, training=None):
        path = tmp_path / "teacher.safetensors"
        models = {"teacher": cosmos_core.create_model(TINY, kind)}
        save_checkpoint(path, models, method, architecture, training)
        return path

    return save_teacher


@pytest.fixture
def published():
    """The content of a checkpoint of the published training code."""
    return torch.load(PARITY / "checkpoint.pt", weights_only=True)


def test_a_model_has_exactly_the_published_keys(published):
    model = cosmos_core.create_model(CONFIG)
    assert {"module." + key for key in model.state_dict()} == published["student"].keys()


def test_either_the_teacher_or_the_student_is_loaded(published):
    projections = {}
    for weights in ("teacher", "student"):
        projections[weights] = published[weights]["module.visual.proj"].float()
        model = cosmos_core.load_model(PARITY / "checkpoint.pt", CONFIG, weights)
        assert torch.equal(model.visual.proj.detach(), projections[weights])
        assert not model.training
    assert not torch.equal(projections["teacher"], projections["student"])


def remove_projection(weights):
    del weights["module.visual.proj"]


def add_parameter(weights):
    weights["module.extra"] = torch.zeros(1)


def reshape_projection(weights):
    weights["module.visual.proj"] = torch.zeros(3, 4)


def remove_first_layer_norms(weights):
    for key in list(weights):
        if "resblocks.0.ln" in key:
            del weights[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_projection, "1 missing keys, first: visual.proj"),
        (add_parameter, "1 unexpected keys, first: extra"),
        (
            reshape_projection,
            r"wrongly shaped keys, first: visual.proj \(3, 4\), not \(48, 32\)",
        ),
        (remove_first_layer_norms, r"8 missing keys, first: [^,]+, [^,]+, [^,]+$"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_their_keys(published, tmp_path, change, message):
    change(published["teacher"])
    torch.save(published, tmp_path / "bad.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=message):
        cosmos_core.load_model(tmp_path / "bad.pt", CONFIG)


class CodeWhenUnpickled:
    """An object that runs code when it is unpickled, which `weights_only` must refuse."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"teacher": CodeWhenUnpickled()}, tmp_path / "evil.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=r"evil.pt: not a checkpoint of tensors"):
        cosmos_core.load_model(tmp_path / "evil.pt", CONFIG)


def test_no_message_advises_to_run_code_in_a_checkpoint(tmp_path):
    torch.save({"teacher": CodeWhenUnpickled()}, tmp_path / "evil.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, reason in (("evil.pt", "exec"), ("text.pt", "tensors alone")):
        with pytest.raises(cosmos_core.CheckpointError, match=reason) as error:
            cosmos_core.load_model(tmp_path / name, CONFIG)
        message = str(error.value)
        assert "weights_only" not in message
        assert "safe_globals" not in message
        assert len(message) < len(str(tmp_path)) + 160


def test_files_that_are_not_checkpoints_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    torch.save({"teacher": torch.zeros(1)}, tmp_path / "tensor.pt")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for name, message in (
        ("absent.pt", "no such checkpoint"),
        ("text.pt", "not a checkpoint of tensors alone"),
        ("cut.safetensors", "not a whole safetensors file"),
        ("other.pt", "holds neither `student` nor `teacher`"),
        ("tensor.pt", "holds neither `student` nor `teacher`"),
        ("foreign.safetensors", "not written by cosmos-train"),
    ):
        with pytest.raises(cosmos_core.CheckpointError, match=f"{name}: {message}"):
            cosmos_core.load_model(tmp_path / name, CONFIG)


@pytest.mark.parametrize("method", ["cosmos", "clip"])
def test_saved_models_are_loaded_with_their_architecture(tmp_path, method):
    models = {
        "student": cosmos_core.create_model(TINY, method),
        "teacher": cosmos_core.create_model(TINY, method),
    }
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, models, method, TINY, {"seed": 0})
    for weights, model in models.items():
        loaded = cosmos_core.load_model(path, weights=weights)
        assert type(loaded) is type(model)
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_checkpoint_of_one_model_says_so(save):
    with pytest.raises(cosmos_core.CheckpointError, match="no student weights, only teacher"):
        cosmos_core.load_model(save(), weights="student")


def rewrite_metadata(path, **changes):
    """Replace entries of a safetensors file's metadata; None removes an entry."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata.update(changes)
    metadata = {key: value for key, value in metadata.items() if value is not None}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)


@pytest.mark.parametrize(
    ("kind", "method"), [("clip", "clip"), ("clip", "silc"), ("cosmos", "cosmos")]
)
def test_the_kind_of_model_and_the_method_are_distinguished(save, kind, method):
    path = save(kind, method)
    checkpoint = cosmos_core.read_checkpoint(path)
    assert (checkpoint.model_kind, checkpoint.method) == (kind, method)
    assert isinstance(cosmos_core.load_model(path), cosmos_core.Cosmos) == (kind == "cosmos")


@pytest.mark.parametrize("kind", ["clip", "cosmos"])
def test_older_files_name_the_kind_as_the_method(save, kind):
    path = save(kind, kind)
    rewrite_metadata(path, model=None)
    assert cosmos_core.read_checkpoint(path).model_kind == kind


def test_a_checkpoint_may_have_no_training_settings(save):
    assert cosmos_core.read_checkpoint(save()).training is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "blip"}, "'blip' is not a kind of model; known: cosmos, flair, clip"),
        ({"model": None, "method": "slip"}, "'slip' is not a kind of model"),
        ({"method": None}, "'method'"),
        ({"architecture": '{"embed_dim": 1'}, "Expecting"),
        ({"training": "[]"}, "architecture and training are JSON objects"),
        ({"added": '["gain"]'}, "`added` names parameters that are not there"),
        ({"added": "[[]]"}, "unhashable"),
        ({"architecture": "[" * 100_000}, "it is nested too deeply"),
        ({"architecture": '{"embed_dim": NaN}'}, "NaN is no number"),
        ({"architecture": "9" * 6000}, "Exceeds the limit"),
    ],
)
def test_damaged_metadata_are_refused(save, changes, message):
    path = save()
    rewrite_metadata(path, **changes)
    with pytest.raises(cosmos_core.CheckpointError, match=re.escape(message)) as caught:
        cosmos_core.read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: its metadata are damaged")


def test_a_published_checkpoint_needs_an_architecture():
    with pytest.raises(cosmos_core.CheckpointError, match="does not state its architecture"):
        cosmos_core.load_model(PARITY / "checkpoint.pt")


def test_architectures_that_cannot_be_built_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown architecture 'ViT-B16'; nearest: .*ViT-B-16"):
        cosmos_core.create_model("ViT-B16")
    with pytest.raises(ValueError, match=r"needs text_cfg, vision_cfg"):
        cosmos_core.create_model({"embed_dim": 8})
    with pytest.raises(ValueError, match="cannot be built on custom_text"):
        cosmos_core.create_model({**TINY, "custom_text": True})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken.json: not a JSON architecture"):
        cosmos_core.create_model(tmp_path / "broken.json")
    with pytest.raises(ValueError, match=r"a model of this architecture cannot be built: .*widht"):
        cosmos_core.create_model({**TINY, "vision_cfg": {"widht": 16}})
    with pytest.raises(ValueError, match="cannot be built: embed_dim must be divisible"):
        cosmos_core.create_model({**TINY, "embed_dim": 12})
    with pytest.raises(ValueError, match="ViT image tower"):
        cosmos_core.create_model({**TINY, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16}})


def test_published_architecture_has_21_tensors_more_than_openclip():
    cosmos_keys = cosmos_core.create_model(TINY).state_dict().keys()
    clip_keys = cosmos_core.create_model(TINY, "clip").state_dict().keys()
    assert len(cosmos_keys - clip_keys) == 21
    assert not clip_keys - cosmos_keys


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": "16"}, "cannot be built"),
        ({"embed_dim": -16}, "embed_dim must be from 0 to 10000000, not -16"),
        ({"embed_dim": 10**7}, "wrongly shaped keys"),
        ({"vision_cfg": "ViT"}, "vision_cfg must be an object, not 'ViT'"),
        ({"vision_cfg": {**TINY["vision_cfg"], "layers": 5000}}, "layers must be from 1 to 1000"),
        ({"vision_cfg": {**TINY["vision_cfg"], "timm_model_name": "x"}}, "timm_model_name"),
        ({"text_cfg": {**TINY["text_cfg"], "vocab_size": 2**20}}, "wrongly shaped keys"),
        ({"text_cfg": {**TINY["text_cfg"], "hf_model_name": "a/b"}}, "hf_model_name"),
        ({"preprocess": [1]}, "preprocess must be an object"),
        ({"preprocess": {"mean": "abc"}}, "preprocess.mean must be three numbers"),
        ({"preprocess": {"mean": [1, 2, 1e999]}}, "not JSON|damaged|three numbers"),
        ({"preprocess": {"std": [1, 0, 1]}}, "preprocess.std must be three numbers"),
    ],
    ids=str,
)
def test_a_file_with_a_false_architecture_is_refused_in_one_line(save, change, message):
    path = save(architecture={**TINY, **change})
    with pytest.raises(ValueError, match=message) as raised:
        cosmos_core.load_model(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64], ids=str)
def test_weights_that_are_not_floating_point_are_refused(tmp_path, published, dtype):
    # PyTorch would copy an integer such as 127 into a model as if it were a weight.
    key = "module.visual.proj"
    published["teacher"][key] = published["teacher"][key].to(dtype)
    torch.save(published, tmp_path / "a.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=rf"visual\.proj \({dtype}\)"):
        cosmos_core.load_model(tmp_path / "a.pt", CONFIG)
    published["teacher"][key] = "text"
    torch.save(published, tmp_path / "a.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=r"visual\.proj \(str\)"):
        cosmos_core.load_model(tmp_path / "a.pt", CONFIG)
