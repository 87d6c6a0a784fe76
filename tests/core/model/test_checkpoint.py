"""Checkpoint files: both layouts, and what is refused."""

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
    """Write a teacher in our layout; return the path."""

    def saved(kind="cosmos", method="cosmos", architecture=TINY, training=None):
        path = tmp_path / "ours.safetensors"
        models = {"teacher": cosmos_core.create_model(TINY, kind)}
        save_checkpoint(path, models, method, architecture, training)
        return path

    return saved


@pytest.fixture
def published():
    return torch.load(PARITY / "checkpoint.pt", weights_only=True)


def test_published_keys_are_ours_exactly(published):
    model = cosmos_core.create_model(CONFIG)
    assert {"module." + key for key in model.state_dict()} == published["student"].keys()


def test_teacher_and_student_differ_and_are_chosen(published):
    kept = {name: published[name]["module.visual.proj"].float() for name in ("teacher", "student")}
    for weights in kept:
        model = cosmos_core.load_model(PARITY / "checkpoint.pt", CONFIG, weights)
        assert torch.equal(model.visual.proj.detach(), kept[weights])
        assert not model.training
    assert not torch.equal(*kept.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.visual.proj"), "1 missing keys, first: visual.proj"),
        (lambda s: s.update({"module.extra": torch.zeros(1)}), "1 unexpected keys, first: extra"),
        (
            lambda s: s.update({"module.visual.proj": torch.zeros(3, 4)}),
            r"wrongly shaped keys, first: visual.proj \(3, 4\), not \(48, 32\)",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if "resblocks.0.ln" in key],
            r"8 missing keys, first: [^,]+, [^,]+, [^,]+$",
        ),
    ],
)
def test_unfit_weights_stop_with_the_keys_named(published, tmp_path, change, message):
    change(published["teacher"])
    torch.save(published, tmp_path / "bad.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=message):
        cosmos_core.load_model(tmp_path / "bad.pt", CONFIG)


class Evil:
    """Runs code when unpickled: what `weights_only` must refuse."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"teacher": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=r"evil.pt: not a checkpoint of tensors"):
        cosmos_core.load_model(tmp_path / "evil.pt", CONFIG)


def test_files_that_are_no_checkpoints(tmp_path):
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
def test_our_layout_keeps_models_and_architecture(tmp_path, method):
    student, teacher = (cosmos_core.create_model(TINY, method) for _ in range(2))
    path = tmp_path / "ours.safetensors"
    save_checkpoint(path, {"student": student, "teacher": teacher}, method, TINY, {"seed": 0})
    for weights, model in (("student", student), ("teacher", teacher)):
        loaded = cosmos_core.load_model(path, weights=weights)
        assert type(loaded) is type(model)
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
    assert [file.name for file in tmp_path.iterdir()] == ["ours.safetensors"]


def test_a_checkpoint_of_one_model_says_so(save):
    with pytest.raises(cosmos_core.CheckpointError, match="no student weights, only teacher"):
        cosmos_core.load_model(save(), weights="student")


def rewrite_metadata(path, **changes):
    """Replace entries of a safetensors file's metadata; None takes one out."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
    tensors = safetensors.torch.load_file(path)
    kept = {key: value for key, value in metadata.items() if value is not None}
    safetensors.torch.save_file(tensors, path, kept)


@pytest.mark.parametrize(
    ("kind", "method"), [("clip", "clip"), ("clip", "silc"), ("cosmos", "cosmos")]
)
def test_the_kind_of_model_and_the_method_are_distinguished(save, kind, method):
    path = save(kind, method)
    read = cosmos_core.read_checkpoint(path)
    assert (read.model_kind, read.method) == (kind, method)
    assert isinstance(cosmos_core.load_model(path), cosmos_core.Cosmos) == (kind == "cosmos")


@pytest.mark.parametrize("kind", ["clip", "cosmos"])
def test_older_files_name_the_kind_as_the_method(save, kind):
    path = save(kind, kind)
    rewrite_metadata(path, model=None)
    assert cosmos_core.read_checkpoint(path).model_kind == kind


def test_a_training_that_is_not_known_stays_so(save):
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
def test_damaged_metadata(save, changes, message):
    path = save()
    rewrite_metadata(path, **changes)
    with pytest.raises(cosmos_core.CheckpointError, match=re.escape(message)) as caught:
        cosmos_core.read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: its metadata are damaged")


def test_published_file_needs_an_architecture():
    with pytest.raises(cosmos_core.CheckpointError, match="does not state its architecture"):
        cosmos_core.load_model(PARITY / "checkpoint.pt")


def test_unknown_architectures(tmp_path):
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
    ours = cosmos_core.create_model(TINY).state_dict().keys()
    plain = cosmos_core.create_model(TINY, "clip").state_dict().keys()
    assert len(ours - plain) == 21
    assert not plain - ours


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
def test_a_file_may_state_any_architecture(save, change, message):
    path = save(architecture={**TINY, **change})
    with pytest.raises(ValueError, match=message) as raised:
        cosmos_core.load_model(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64], ids=str)
def test_weights_are_floating_point(tmp_path, published, kind):
    """PyTorch would copy them into a model as if 127 were a weight."""
    name = "module.visual.proj"
    published["teacher"][name] = published["teacher"][name].to(kind)
    torch.save(published, tmp_path / "a.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=rf"visual\.proj \({kind}\)"):
        cosmos_core.load_model(tmp_path / "a.pt", CONFIG)
    published["teacher"][name] = "text"
    torch.save(published, tmp_path / "a.pt")
    with pytest.raises(cosmos_core.CheckpointError, match=r"visual\.proj \(str\)"):
        cosmos_core.load_model(tmp_path / "a.pt", CONFIG)
