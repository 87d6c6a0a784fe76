"""OpenCLIP models behind the encoder interface, against OpenCLIP itself."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import _pcfg
from PIL import Image
from support.encoders import load, refusal

from cosmos_eval.models.encoder import DenseEncoder, run_on_device
from cosmos_eval.types import EncoderInfo, UsageError

TEXTS = ["a dog", "two dogs on a sofa in front of a red brick wall", "!", ""]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype("f"))


def test_random_weights_are_marked_and_loading_leaves_no_trace(
    tiny_archs, tiny_encoder, images, capfd
):
    """They are the same every time; nothing is logged, and the random state stays."""
    handlers, expected = list(logging.root.handlers), torch.manual_seed(5).get_state()
    again = load(f"openclip:{tiny_archs['tiny']}/random")
    assert torch.equal(torch.get_rng_state(), expected)
    assert capfd.readouterr() == ("", "")
    assert logging.root.handlers == handlers
    assert logging.root.manager.disable == logging.NOTSET
    assert again.info.random
    assert again.info.weights_sha256 is again.info.weights is None
    assert torch.equal(again.encode_image(images), tiny_encoder.encode_image(images))


def test_a_file_gives_openclips_own_features(tiny_archs, images, tmp_path):
    arch = tiny_archs["tiny"]
    model, _, transform = open_clip.create_model_and_transforms(arch)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    encoder = load(f"openclip:{arch}/{path}")
    assert isinstance(encoder, DenseEncoder)
    assert not encoder.info.random
    assert encoder.info.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    tokens = open_clip.get_tokenizer(arch)(TEXTS)
    model.eval()
    with torch.no_grad():
        expected_images = model.encode_image(images, normalize=True)
        expected_texts = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder.tokenize(TEXTS), tokens)
    torch.testing.assert_close(encoder.encode_image(images), expected_images)
    torch.testing.assert_close(encoder.encode_text(tokens), expected_texts)
    picture = Image.effect_noise((50, 40), 80).convert("RGB")
    torch.testing.assert_close(encoder.transform(picture), transform(picture))


def test_texts_without_padding_give_the_same_features(tiny_encoder):
    assert tiny_encoder.trims_text
    tokens = tiny_encoder.tokenize(TEXTS)
    full = tiny_encoder.encode_text(tokens)
    length = int(tokens.argmax(dim=1).max()) + 1
    assert length < tokens.shape[1]
    trimmed = tiny_encoder.encode_text(tokens[:, :length])
    torch.testing.assert_close(trimmed, full, rtol=0, atol=1e-6)
    # The model is left as it was.
    torch.testing.assert_close(tiny_encoder.encode_text(tokens), full, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["tiny-bidirectional", "tiny-last-token"])
def test_towers_that_look_at_the_padding_are_not_trimmed(kind, tiny_archs):
    encoder = load(f"openclip:{tiny_archs[kind]}/random")
    assert not encoder.trims_text
    assert encoder.encode_text(encoder.tokenize(TEXTS)).shape == (4, 16)


def test_overlong_texts_are_counted(tiny_encoder):
    # A context of 20 holds 18 words between start and end of text.
    texts = ["dog " * 17, "dog " * 18, "dog " * 19, "dog"]
    assert tiny_encoder.overlong(texts).tolist() == [False, False, True, False]


def test_a_resnet_has_no_patches(tiny_archs, images):
    encoder = load(f"openclip:{tiny_archs['tiny-resnet']}/random")
    assert encoder.patch_size == 0
    assert encoder.encode_image(images).shape == (3, 16)
    with pytest.raises(UsageError):
        encoder.encode_patches(images, "csa")


def test_bfloat16_is_near_and_returned_as_float32(tiny_archs, tiny_encoder, images):
    bf16_encoder = load(f"openclip:{tiny_archs['tiny']}/random", precision="bf16")
    assert bf16_encoder.info.precision == "bf16"
    tokens = bf16_encoder.tokenize(TEXTS)
    for features, exact in (
        (bf16_encoder.encode_image(images), tiny_encoder.encode_image(images)),
        (bf16_encoder.encode_text(tokens), tiny_encoder.encode_text(tokens)),
    ):
        assert features.dtype == torch.float32
        assert not torch.equal(features, exact)
        torch.testing.assert_close(features, exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("arch", ["tiny", "tiny-bidirectional", "tiny-custom"])
def test_amp_is_openclips_own_forward_under_autocast(arch, tiny_archs, images):
    spec = f"openclip:{tiny_archs[arch]}/random"
    plain, mixed = load(spec), load(spec, precision="amp")
    tokens = plain.tokenize(TEXTS)
    # CLIP Benchmark's `torch.autocast(device, enabled=amp)`: bfloat16 on a CPU.
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        image, text = plain.model.encode_image(images), plain.model.encode_text(tokens)
    assert image.dtype == torch.bfloat16
    for features, expected, exact in (
        (mixed.encode_image(images), image, plain.encode_image(images)),
        (mixed.encode_text(tokens), text, plain.encode_text(tokens)),
    ):
        expected = torch.nn.functional.normalize(expected.float(), dim=-1)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
        assert not torch.allclose(features, exact, rtol=0, atol=1e-4)
    assert {parameter.dtype for parameter in mixed.model.parameters()} == {torch.float32}
    assert mixed.info.precision == "amp"


def test_amp_reaches_patches(tiny_archs, tiny_encoder, images):
    mixed = load(f"openclip:{tiny_archs['tiny']}/random", precision="amp")
    for attention in ("vanilla", "csa", "maskclip", "clearclip", "naclip"):
        exact = tiny_encoder.encode_patches(images, attention)
        patches = mixed.encode_patches(images, attention)
        assert patches.dtype == torch.float32
        assert not torch.equal(patches, exact)
        assert (patches * exact).sum(-1).min() > 0.99


@pytest.mark.parametrize(("device", "expected"), [("cuda", torch.float16), ("cpu", torch.bfloat16)])
def test_amp_is_the_type_that_pytorch_takes_on_a_device(device, expected, monkeypatch):
    """No GPU is needed to see what is requested of PyTorch."""
    autocast = Mock(return_value=nullcontext())
    monkeypatch.setattr(torch, "autocast", autocast)
    info = EncoderInfo("some", "some", None, None, True, "amp", f"{device}:0")
    run_on_device(info, lambda: torch.zeros(1))
    autocast.assert_called_once_with(device, dtype=None, enabled=True)
    assert torch.get_autocast_dtype(device) == expected


@pytest.fixture
def tags(tiny_archs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an architecture with two tags of weights; the tag `quick` asks for QuickGELU."""
    arch = tiny_archs["tiny"]
    file = tmp_path / "published.pt"
    torch.save(open_clip.create_model(arch).state_dict(), file)
    tags = {"quick": _pcfg(file=str(file), quick_gelu=True), "plain": _pcfg(file=str(file))}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, arch, tags)
    return arch


def test_a_tag_brings_its_own_activation(tags, images):
    features_of_tags = []
    for tag, quick_gelu in (("quick", True), ("plain", False)):
        model = open_clip.create_model(tags, tag, force_quick_gelu=quick_gelu).eval()
        features = load(f"openclip:{tags}/{tag}").encode_image(images)
        with torch.no_grad():
            torch.testing.assert_close(features, model.encode_image(images, normalize=True))
        features_of_tags.append(features)
    assert not torch.allclose(*features_of_tags, atol=1e-4)


def test_published_weights_are_hashed_by_content(tags):
    encoder = load(f"openclip:{tags}/plain")
    state = encoder.model.state_dict()
    joined = b"".join(state[key].numpy().tobytes() for key in sorted(state))
    assert encoder.info.weights_sha256 == hashlib.sha256(joined).hexdigest()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openclip:ViT-B-33/openai", "nearest: .*ViT-B-32"),
        ("openclip:ViT-B-32/opnai", "nearest: openai"),
        ("openclip:ViT-B-32/no/such.pt", "neither a file nor"),
    ],
)
def test_unknown_names_are_refused(spec, message):
    assert re.search(message, refusal(spec))


def test_unusable_files_are_refused(tiny_archs, tmp_path):
    arch = tiny_archs["tiny"]
    state = open_clip.create_model(arch).state_dict()
    del state["ln_final.weight"]
    torch.save(state, tmp_path / "missing.pt")
    torch.save(Path("an object, not tensors"), tmp_path / "object.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"state_dict": print}))
    assert "ln_final.weight" in refusal(f"openclip:{arch}/{tmp_path}/missing.pt")
    for name in ("object", "text", "pickle"):
        assert "cannot be loaded" in refusal(f"openclip:{arch}/{tmp_path}/{name}.pt")


def test_a_device_that_is_not_there(tiny_archs):
    for device in ("cuda:77", "toaster"):
        with pytest.raises(UsageError, match=f"device '{device}' cannot be used"):
            load(f"openclip:{tiny_archs['tiny']}/random", device=device)
