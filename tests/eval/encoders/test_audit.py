"""Weights that must not be measured are refused in one line that says what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.pretrained import _pcfg, _slpcfg
from support.encoders import CHECKPOINT, CONFIG, TINY, load, noise, refusal, save_cosmos

import cosmos_core
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.model.export import export
from cosmos_eval.models.audit import describe_config_differences, published_preprocessing
from cosmos_eval.models.auxiliary import load as load_auxiliary
from cosmos_eval.models.specs import BUNDLED
from cosmos_eval.types import UsageError

State = dict[str, torch.Tensor]


def under_state_dict(state: State) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": state}


def with_prefix(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def under_state_dict_with_module_prefix(state: State) -> dict[str, Any]:
    return {"state_dict": with_prefix("module.", state)}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": dict,
    "state_dict": under_state_dict,
    "module": under_state_dict_with_module_prefix,
}
"""Functions that make the content of a file from weights."""


@pytest.fixture(scope="module")
def state(tiny_archs: dict[str, str]) -> State:
    torch.manual_seed(0)
    return open_clip.create_model(tiny_archs["tiny"]).state_dict()


# Positions of an 8 x 8 grid, which OpenCLIP would interpolate.
OF_LARGER_IMAGES = {"visual.positional_embedding": torch.zeros(65, 32)}
WITH_NAN = {"visual.proj": torch.zeros(32, 16).fill_diagonal_(torch.nan)}


@pytest.mark.parametrize(
    ("changed_weights", "message", "wrapping"),
    [
        ({"ln_final.bias": None}, "ln_final.bias", "bare"),
        ({"visual.extra": torch.zeros(1)}, "visual.extra", "state_dict"),
        ({"text_projection": torch.zeros(16, 17)}, "text_projection", "module"),
        (OF_LARGER_IMAGES, "visual.positional_embedding is (65, 32), not (17, 32)", "bare"),
        (OF_LARGER_IMAGES, "visual.positional_embedding is (65, 32), not (17, 32)", "module"),
        (
            {"positional_embedding": torch.zeros(30, 16)},
            "embedding is (30, 16), not (20, 16)",
            "state_dict",
        ),
        (WITH_NAN, "NaN or infinite weights: visual.proj", "module"),
        (
            {"logit_scale": torch.tensor(torch.inf)},
            "NaN or infinite weights: logit_scale",
            "state_dict",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    changed_weights, message, wrapping, state, tiny_archs, tmp_path
):
    """A weight that is changed to None is missing."""
    path = tmp_path / "weights.pt"
    weights = {name: x for name, x in {**state, **changed_weights}.items() if x is not None}
    torch.save(WRAPPINGS[wrapping](weights), path)
    with pytest.raises(UsageError, match=re.escape(message)):
        load(f"openclip:{tiny_archs['tiny']}/{path}")


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_complete_weights_load_from_every_wrapping(wrapping, state, tiny_archs, tmp_path):
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "weights.pt")
    encoder = load(f"openclip:{tiny_archs['tiny']}/{tmp_path / 'weights.pt'}")
    for key, value in encoder.model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_files_of_old_torch_and_of_safetensors_are_checked(state, tiny_archs, tmp_path):
    old_torch_file, safetensors_file = tmp_path / "old.pt", tmp_path / "weights.safetensors"
    weights = {**state, **OF_LARGER_IMAGES}
    torch.save(weights, old_torch_file, _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, safetensors_file)
    for path in (old_torch_file, safetensors_file):
        assert "(65, 32)" in refusal(f"openclip:{tiny_archs['tiny']}/{path}")


def test_files_whose_weights_are_under_another_key_are_refused(state, tiny_archs, tmp_path):
    torch.save({"model": state}, tmp_path / "wrapped.pt")
    torch.save({"student": state, "teacher": state}, tmp_path / "cosmos.pt")
    spec = f"openclip:{tiny_archs['tiny']}/{tmp_path}"
    assert "under 'model', where OpenCLIP does not look" in refusal(f"{spec}/wrapped.pt")
    assert f"name it as cosmos:{tmp_path}/cosmos.pt" in refusal(f"{spec}/cosmos.pt")


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda state: with_prefix("_orig_mod.", state),
            "holds its weights under '_orig_mod', where OpenCLIP does not look: save its content "
            "as a file of its own, with names that do not begin with _orig_mod. (which comes from "
            "torch.compile)",
        ),
        (
            lambda state: {"state_dict": with_prefix("module._orig_mod.", state)},
            "under 'state_dict.module._orig_mod', where OpenCLIP",
        ),
        (lambda state: with_prefix("model.", state), "under 'model', where"),
        (
            lambda state: {"model_ema": state, "epoch": 3},
            "under 'model_ema', where OpenCLIP does not look: save its content as a file of its "
            "own, with names that do not begin with model_ema. (which comes from a moving average",
        ),
        (
            lambda state: {**state, "visual.proj.lora_A.weight": torch.ones(1)},
            "holds adapters of LoRA (visual.proj.lora_A.weight): merge them into the weights, "
            "model.merge_and_unload() of peft",
        ),
        (
            lambda state: {**state, "args": torch.nn.Linear(1, 1)},
            "is a pickle of other objects than tensors, which may run code and is not opened",
        ),
    ],
)
def test_weights_that_must_be_saved_in_another_way(wrap, message, state, tiny_archs, tmp_path):
    torch.save(wrap(state), tmp_path / "weights.pt")
    assert message in refusal(f"openclip:{tiny_archs['tiny']}/{tmp_path}/weights.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: fetch it again"),
        (b"404: Not Found", "is a text, not weights, and begins with '404: Not Found'"),
        (b"<html><head>", "is an HTML page, such as a login or an error, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    ],
)
def test_files_that_are_not_weights(content, message, tiny_archs, tmp_path):
    arch = tiny_archs["tiny"]
    torch_file, safetensors_file = tmp_path / "w.pt", tmp_path / "w.safetensors"
    torch_file.write_bytes(content)
    safetensors_file.write_bytes(content)
    assert f"{torch_file} {message}" in refusal(f"openclip:{arch}/{torch_file}")
    assert f"{safetensors_file} {message}" in refusal(f"openclip:{arch}/{safetensors_file}")
    assert f"{torch_file} {message}" in refusal(f"cosmos:{torch_file}", arch)


def test_an_empty_file_is_refused_as_weights_of_an_auxiliary_encoder(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="is empty: fetch it again"):
        load_auxiliary(f"timm:test_vit/{path}", "cpu")


def test_a_format_that_contradicts_the_file_name_is_refused(state, tiny_archs, tmp_path):
    torch.save(state, tmp_path / "weights.safetensors")
    safetensors.torch.save_file(state, tmp_path / "weights.pt")
    spec = f"openclip:{tiny_archs['tiny']}/{tmp_path}"
    message = refusal(f"{spec}/weights.safetensors")
    assert "is a pickle, as torch.save writes it, and not the" in message
    assert "rename it so that it ends with .safetensors" in refusal(f"{spec}/weights.pt")


@pytest.mark.parametrize(("arch", "shape"), [("tiny", ()), ("tiny-custom", (1,))])
def test_weights_trained_with_the_loss_of_siglip(arch, shape, tiny_archs, tmp_path):
    """OpenCLIP adds a bias of logits to any architecture; features do not read it."""
    model = open_clip.create_model(tiny_archs[arch]).eval()
    weights = {**model.state_dict(), "logit_bias": torch.full(shape, -10.0)}
    torch.save({"state_dict": weights}, tmp_path / "weights.pt")
    encoder = load(f"openclip:{tiny_archs[arch]}/{tmp_path}/weights.pt")
    assert encoder.model.logit_bias.item() == -10
    tokens = encoder.tokenize(["a dog", "two dogs"])
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder.encode_text(tokens), expected)


def test_further_weights_of_a_file_are_noted(state, tiny_archs, command, tmp_path):
    path = tmp_path / "weights.pt"
    averaged = {name: 2 * tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged}, path)
    run = ("run", "--dataset", "scenes-cls", "--limit", 8, "--no-cache", "--output", "out")
    completed = command(*run, "--model", f"openclip:{tiny_archs['tiny']}/{path}")
    assert completed.status == 0, completed.err
    note = f"{path} also has weights under 'state_dict_ema', which are not measured"
    (result,) = Path("out").glob("*.json")
    assert note in json.loads(result.read_text())["provenance"]["notes"]
    assert note in completed.err.replace("\n", " ")


def test_a_bias_of_logits_that_the_weights_lack_is_refused(state, tmp_path):
    config = json.dumps({**TINY, "init_logit_bias": -10})
    (tmp_path / "cosmos-eval-biased.json").write_text(config)
    open_clip.add_model_config(tmp_path)
    torch.save(state, tmp_path / "weights.pt")
    message = refusal(f"openclip:cosmos-eval-biased/{tmp_path / 'weights.pt'}")
    assert message.endswith("logit_bias is missing")


def test_random_weights_are_never_an_accident(tiny_archs, monkeypatch, tmp_path):
    """For a tag without a file or a folder without weights, OpenCLIP itself would only warn."""
    arch = tiny_archs["tiny"]
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, arch, {"nowhere": _pcfg()})
    assert "could not be loaded" in refusal(f"openclip:{arch}/nowhere")
    description = {"model_cfg": open_clip.get_model_config(arch)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    assert "holds no weights" in refusal(f"openclip:{tmp_path}")


def test_an_activation_that_contradicts_the_tag_is_refused(
    tiny_archs, monkeypatch, tmp_path, state
):
    config = {**open_clip.get_model_config(tiny_archs["tiny"]), "quick_gelu": True}
    (tmp_path / "cosmos-eval-quick.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.save(state, tmp_path / "weights.pt")
    tag = _pcfg(file=str(tmp_path / "weights.pt"), quick_gelu=False)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "cosmos-eval-quick", {"made": tag})
    with pytest.warns(UserWarning, match="QuickGELU mismatch"):
        message = refusal("openclip:cosmos-eval-quick/made")
    assert "quick_gelu is False, not True" in message


def test_a_bare_file_is_refused_if_all_published_weights_differ_from_the_default(
    tiny_archs, monkeypatch, tmp_path, state
):
    arch, path = tiny_archs["tiny"], tmp_path / "weights.pt"
    torch.save(state, path)
    spec = f"openclip:{arch}/{path}"
    for tag, message in (
        (_slpcfg(), r"mean is [0.5, 0.5, 0.5], not [0.48145466"),
        (_pcfg(quick_gelu=True), "quick_gelu is True, not False"),
    ):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, arch, {"one": tag, "two": tag})
        assert message in refusal(spec)
        assert "open_clip_config.json" in refusal(spec)
        # If the tags disagree and one has the default, the default is taken.
        tags = {"one": tag, "two": _pcfg()}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, arch, tags)
        assert load(spec).preprocessing["resize_mode"] == "shortest"


def describe(folder: Path, model: dict[str, Any], preprocessing: dict[str, Any]) -> None:
    description = {"model_cfg": model, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(description))


def test_a_configuration_beside_a_file_describes_it(tiny_archs, tmp_path, state):
    arch, path = tiny_archs["tiny"], tmp_path / "weights.pt"
    config = open_clip.get_model_config(arch)
    torch.save(state, path)
    spec = f"openclip:{arch}/{path}"
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash", "size": 32}
    describe(tmp_path, config, preprocessing)
    encoder = load(spec)
    assert encoder.preprocessing["resize_mode"] == "squash"
    assert encoder.image_mean == encoder.image_std == (0.5, 0.5, 0.5)
    describe(tmp_path, config, {**preprocessing, "size": 64})
    assert "size is [64, 64], not [32, 32]" in refusal(spec)
    describe(tmp_path, {**config, "quick_gelu": True}, preprocessing)
    assert "quick_gelu is True, not False" in refusal(spec)
    assert f"use openclip:{tmp_path}" in refusal(spec)
    narrow_vision = {**config["vision_cfg"], "head_width": 8}
    describe(tmp_path, {**config, "vision_cfg": narrow_vision}, preprocessing)
    assert "vision_cfg.head_width is 8, not 16" in refusal(spec)
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert "does not describe an OpenCLIP model" in refusal(spec)


def test_folders_describe_themselves(tiny_archs, tmp_path, state):
    """QuickGELU and a mean and std of one half are not the defaults."""
    config = {**open_clip.get_model_config(tiny_archs["tiny"]), "quick_gelu": True}
    describe(tmp_path, config, {"mean": 0.5, "std": 0.5, "interpolation": "bilinear"})
    safetensors.torch.save_file(state, tmp_path / "open_clip_model.safetensors")
    encoder = load(f"openclip:{tmp_path}")
    assert encoder.preprocessing["interpolation"] == "bilinear"
    assert encoder.image_mean == (0.5, 0.5, 0.5)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    picture = noise(40, 50)
    torch.testing.assert_close(encoder.transform(picture), transform(picture), rtol=0, atol=0)
    images = transform(picture)[None]
    with torch.no_grad():
        expected = model.eval().encode_image(images, normalize=True)
    torch.testing.assert_close(encoder.encode_image(images), expected, rtol=0, atol=1e-6)
    assert json.loads(encoder.info.architecture)["quick_gelu"] is True
    safetensors.torch.save_file({**state, **WITH_NAN}, tmp_path / "open_clip_model.safetensors")
    assert "NaN or infinite" in refusal(f"openclip:{tmp_path}")


def test_an_exported_model_is_the_same_model(tmp_path):
    path = tmp_path / "own.safetensors"
    save_cosmos(path, preprocess={"mean": [0.5] * 3, "std": [0.25] * 3}, quick_gelu=True)
    export(path, tmp_path / "exported")
    original, exported = load(f"cosmos:{path}"), load(f"openclip:{tmp_path / 'exported'}")
    assert exported.preprocessing == original.preprocessing
    assert exported.tokenizer == original.tokenizer
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features, expected = exported.encode_image(images), original.encode_image(images)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
    tokens = original.tokenize(["a dog"])
    features, expected = exported.encode_text(tokens), original.encode_text(tokens)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)


def test_an_exported_model_without_its_tokenizer_is_refused(tmp_path):
    """The tokenizer of scenes has a vocabulary which OpenCLIP cannot name."""
    export(Path(cosmos_core.bundled_models()[BUNDLED[0]].weights_path), tmp_path / "exported")
    message = refusal(f"openclip:{tmp_path / 'exported'}")
    assert "OpenCLIP's tokenizer has 49408" in message
    assert "use the COSMOS checkpoint itself" in message


def test_an_architecture_that_contradicts_the_file_is_refused(tmp_path):
    path, arch_file = tmp_path / "own.safetensors", tmp_path / "named.json"
    config = save_cosmos(path, preprocess={"mean": [0.5] * 3}, quick_gelu=True)
    arch_file.write_text(json.dumps(config))
    assert load(f"cosmos:{path}", arch_file).image_mean == (0.5,) * 3
    for key, message in (
        ("quick_gelu", "quick_gelu is True, not False"),
        ("preprocess", "preprocess.mean is [0.5, 0.5, 0.5], not [0.48145466"),
    ):
        incomplete_config = {name: config[name] for name in config if name != key}
        arch_file.write_text(json.dumps(incomplete_config))
        line = refusal(f"cosmos:{path}", arch_file)
        assert message in line
        assert line.endswith("leave --arch out")


def test_a_transform_that_cosmos_lacks_is_refused(tmp_path):
    path = tmp_path / "own.safetensors"
    save_cosmos(path, preprocess={"interpolation": "bicubic", "resize_mode": "shortest"})
    assert load(f"cosmos:{path}").preprocessing["interpolation"] == "bicubic"
    save_cosmos(path, preprocess={"interpolation": "bilinear"})
    assert "interpolation is bilinear, not bicubic" in refusal(f"cosmos:{path}")


def test_published_cosmos_weights_that_are_not_finite_are_refused(tmp_path):
    """The file has the layout of the released ones, with the prefix of distributed training."""
    content = torch.load(CHECKPOINT, weights_only=True)
    content["teacher"]["module.visual.proj"][0, 0] = torch.inf
    torch.save(content, tmp_path / "published.pt")
    spec = f"cosmos:{tmp_path / 'published.pt'}"
    assert refusal(spec, CONFIG).endswith("infinite weights: visual.proj; fetch or train it again")
    assert load(spec, CONFIG, "student")


def test_an_architecture_with_an_unknown_option_is_refused(tmp_path):
    path, arch_file = tmp_path / "own.safetensors", tmp_path / "named.json"
    config = save_cosmos(path)
    arch_file.write_text(json.dumps({**config, "vision_cfg": {"layer": 1}}))
    assert "unexpected keyword argument 'layer'" in refusal(f"cosmos:{path}", arch_file)


def test_cosmos_weights_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "own.safetensors"
    config = save_cosmos(path)
    model = cosmos_core.create_model(config)
    with torch.no_grad():
        model.visual.proj[0, 0] = torch.nan
    save_checkpoint(path, {"teacher": model}, "cosmos", config, {})
    assert refusal(f"cosmos:{path}").startswith(f"teacher of {path} has NaN or infinite weights")


def test_stated_defaults_do_not_differ_from_a_config_without_them():
    config = {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}
    config_with_defaults = {
        "embed_dim": 512,
        "quick_gelu": False,
        "vision_cfg": {"layers": 12, "image_size": [224, 224], "timm_model_pretrained": True},
        "text_cfg": {"vocab_size": 49408},
    }
    assert describe_config_differences(config, config_with_defaults) == ""
    differences = describe_config_differences(config, {**config_with_defaults, "embed_dim": 16})
    assert differences == "embed_dim is 512, not 16"


def test_published_preprocessing_has_only_options_of_all_published_weights():
    siglip = published_preprocessing("ViT-B-16-SigLIP")
    assert siglip["resize_mode"] == "squash"
    assert "quick_gelu" not in siglip
    assert published_preprocessing("RN50x64")["quick_gelu"] is True
    assert "quick_gelu" not in published_preprocessing("ViT-B-32")  # its weights disagree
    assert published_preprocessing("ViT-S-16") == {}
