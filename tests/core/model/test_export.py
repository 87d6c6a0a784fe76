"""Exported folders, as stock OpenCLIP and the Hub's own tools read them."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import PIL.Image
import pytest
import safetensors.torch
import torch

import cosmos_core
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.model.export import export

PARITY = Path(__file__).parents[2] / "parity"
CONFIG = PARITY / "model_config.json"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        **{"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}
TRAINING = {
    "command": "cosmos-train scenes_cosmos",
    "config": {"data": {"shards": "scenes:9"}, "optim": {"batch_size": 3}},
    "commit": None,
    "seed": 5,
    "steps": 3,
}
FILES = ["README.md", "cosmos.safetensors", "open_clip_config.json", "open_clip_model.safetensors"]


@pytest.fixture
def ours(tmp_path):
    """A checkpoint in our layout: student and teacher of a tiny COSMOS, drawn apart."""
    path = tmp_path / "checkpoint.safetensors"
    models = {name: cosmos_core.create_model(TINY) for name in ("student", "teacher")}
    save_checkpoint(path, models, "cosmos", TINY, TRAINING)
    return path


def openclip(folder):
    return open_clip.create_model_and_transforms(f"local-dir:{folder}")


def assert_same_features(model, folder, size, context_length, vocabulary):
    """Check that OpenCLIP's model of an exported folder has the features of this package's model.

    Images are random, and captions end at several positions. Features are in float64, as the models
    sum in different orders.
    """
    openclip_model, _, _ = openclip(folder)
    assert type(openclip_model) is open_clip.CLIP
    openclip_model.eval().double()
    model.double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, size, size, dtype=torch.float64, generator=generator)
    texts = torch.randint(1, vocabulary - 2, (3, context_length), generator=generator)
    for row, end in enumerate((2, context_length // 2, context_length - 1)):
        texts[row, end], texts[row, end + 1 :] = vocabulary - 1, 0
    with torch.no_grad():
        expected = openclip_model.encode_image(images)
        torch.testing.assert_close(model.encode_image(images), expected, rtol=0, atol=1e-6)
        expected = openclip_model.encode_text(texts)
        torch.testing.assert_close(model.encode_text(texts), expected, rtol=0, atol=1e-6)
    assert torch.equal(openclip_model.logit_scale, model.logit_scale)


@pytest.mark.parametrize("weights", ["teacher", "student"])
def test_openclip_loads_a_published_checkpoint_with_the_same_features(tmp_path, weights):
    files = export(PARITY / "checkpoint.pt", tmp_path / "out", weights=weights, architecture=CONFIG)
    assert [path.name for path in files] == FILES
    assert all(path.parent == tmp_path / "out" and path.is_file() for path in files)
    model = cosmos_core.load_model(PARITY / "checkpoint.pt", CONFIG, weights)
    assert_same_features(model, tmp_path / "out", 224, 77, 49408)


def test_openclip_loads_our_checkpoint_with_the_same_features(tmp_path, ours):
    export(ours, tmp_path / "out", weights="student")
    model = cosmos_core.load_model(ours, weights="student")
    assert_same_features(model, tmp_path / "out", 32, 8, 20)


@pytest.mark.parametrize("method", ["clip", "slip"])
def test_models_without_cross_attention_are_exported_too(tmp_path, method):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"teacher": cosmos_core.create_model(TINY, "clip")}, method, TINY, {})
    export(path, tmp_path / "out")
    assert_same_features(cosmos_core.load_model(path), tmp_path / "out", 32, 8, 20)
    assert cosmos_core.read_checkpoint(tmp_path / "out" / "cosmos.safetensors").method == method


def test_the_folder_keeps_everything_the_checkpoint_held(tmp_path, ours):
    export(ours, tmp_path / "out")
    before = cosmos_core.read_checkpoint(ours)
    after = cosmos_core.read_checkpoint(tmp_path / "out" / "cosmos.safetensors")
    assert after[1:] == before[1:]
    assert after.weights.keys() == before.weights.keys() == {"student", "teacher"}
    for name, state in before.weights.items():
        assert after.weights[name].keys() == state.keys()
        assert all(torch.equal(after.weights[name][key], value) for key, value in state.items())


def test_openclip_gets_its_own_tensors_and_configuration_alone(tmp_path, ours):
    export(ours, tmp_path / "out")
    tensors = safetensors.torch.load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert tensors.keys() == open_clip.CLIP(**TINY).state_dict().keys()
    config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    assert config.keys() == {"model_cfg", "preprocess_cfg"}
    assert config["model_cfg"] == TINY


def test_images_are_prepared_as_in_evaluation(tmp_path, ours):
    export(ours, tmp_path / "out")
    _, _, preprocess = openclip(tmp_path / "out")
    expected = open_clip.image_transform(32, is_train=False, interpolation="bicubic")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    assert torch.equal(preprocess(image), expected(image))


def test_an_architecture_may_state_its_own_mean_and_deviation(tmp_path):
    architecture = {**TINY, "preprocess": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.5]}}
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"teacher": cosmos_core.create_model(TINY)}, "cosmos", architecture, {})
    export(path, tmp_path / "out")
    _, _, preprocess = openclip(tmp_path / "out")
    black = preprocess(PIL.Image.new("RGB", (40, 40)))
    # (0 - mean) / std
    torch.testing.assert_close(black[:, 0, 0], torch.tensor([-2.0, -1.6, -0.6]))


def test_the_card_is_what_the_hub_takes(tmp_path, ours):
    export(ours, tmp_path / "my-model")
    card = huggingface_hub.ModelCard.load(tmp_path / "my-model" / "README.md")
    assert card.data.license == "mit"
    assert card.data.library_name == "open_clip"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.tags == ["clip", "cosmos"]
    assert card.text.strip().startswith("# my-model\n")
    assert "| Command | cosmos-train scenes_cosmos |\n| Seed | 5 |\n| Steps | 3 |" in card.text
    assert "| Batch size | 3 |" in card.text
    assert "None |" not in card.text


def card_code(folder):
    """The Python of a card, which is to be run beside the folder."""
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


def test_the_code_of_the_card_loads_model_and_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(PARITY / "checkpoint.pt", Path("out"), architecture=CONFIG)
    names = {}
    exec(card_code(tmp_path / "out"), names)
    tokens = names["tokenizer"](["a photo of a cat"])
    assert names["model"].encode_text(tokens).shape == (1, 32)


def test_the_code_of_the_card_takes_the_scenes_tokenizer_where_openclip_has_none(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bundled = cosmos_core.bundled_models()["scenes-clip"].weights_path
    export(bundled, Path("scenes"))
    names = {}
    exec(card_code(tmp_path / "scenes"), names)
    texts = ["a red ball on the left"]
    assert torch.equal(names["tokenizer"](texts), scenes_tokenizer()(texts))
    names["model"].encode_text(names["tokenizer"](texts))


def test_a_folder_with_contents_is_left_alone(tmp_path, ours):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="out is there already; choose another folder"):
        export(ours, output)
    assert [path.name for path in output.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match=r"mine.txt is there already"):
        export(ours, output / "mine.txt")


def test_an_empty_folder_is_filled(tmp_path, ours):
    (tmp_path / "out").mkdir()
    assert [path.name for path in export(ours, tmp_path / "out")] == FILES


def test_what_cannot_be_exported_leaves_nothing_behind(tmp_path, ours):
    only = tmp_path / "only.safetensors"
    save_checkpoint(only, {"teacher": cosmos_core.create_model(TINY)}, "cosmos", TINY, {})
    for checkpoint, settings, message in (
        (PARITY / "checkpoint.pt", {}, "does not state its architecture"),
        (PARITY / "checkpoint.pt", {"architecture": "ViT-B-32"}, "missing keys"),
        (only, {"weights": "student"}, "no student weights, only teacher"),
        (tmp_path / "absent.pt", {}, "no such checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            export(checkpoint, tmp_path / "deep" / "out", **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ours.name, only.name]


def test_a_failure_halfway_leaves_no_folder(tmp_path, ours, monkeypatch):
    """A full disk, in place of which the writing of the card fails."""

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("cosmos_core.model.export.model_card", fail)
    with pytest.raises(OSError, match="No space left"):
        export(ours, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [ours.name]
