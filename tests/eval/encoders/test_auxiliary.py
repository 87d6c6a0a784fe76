"""Encoders that guide the last block of another: loaded by name, and in results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as t
from support.encoders import load
from torch.nn import functional as F

from cosmos_core.utils.files import file_sha256
from cosmos_eval import evaluate
from cosmos_eval.models import auxiliary
from cosmos_eval.models.dense import encode_patches
from cosmos_eval.models.hub import offline
from cosmos_eval.protocols import find_known
from cosmos_eval.results.labels import StoredResult, label_results, result_warnings
from cosmos_eval.results.record import ResultRow
from cosmos_eval.tasks.segmentation.inference import make_segmenter
from cosmos_eval.types import RunOptions, UsageError

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"image_size": 32, "patch_size": 8, "intermediate_size": 64}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PLAIN = """
import torch
patch_size, image_mean, image_std = 4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
class model:
    patch_size, image_mean, image_std = patch_size, image_mean, image_std
    @staticmethod
    def encode_patches(images):
        return torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1)
"""


@pytest.fixture(scope="session")
def timm_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Patches of 16, trained at 160 px, with register-free class token and a classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "test_vit.pt"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    return f"timm:test_vit/{path}"


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Colours of patches of 4 px, by a user's file."""
    path = tmp_path / "own.py"
    path.write_text(PLAIN)
    return f"python:{path}"


@torch.no_grad()
@pytest.mark.parametrize("arch", ["test_vit", "vit_tiny_patch16_dinov3_qkvb"])
def test_patches_of_timm_are_those_of_its_own_forward(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(arch).eval()
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    features, record = auxiliary.load(f"timm:{arch}/{path}", "cpu")
    assert record["weights_sha256"] == file_sha256(path)
    moments = [record[name] for name in ("image_mean", "image_std")]
    assert moments == [[*model.pretrained_cfg[name]] for name in ("mean", "std")]
    side = model.patch_embed.img_size[0]
    images = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(one)[:, None, None] for one in moments)
    tokens = model.forward_features((images - mean) / std)[:, model.num_prefix_tokens :]
    own = features(images, *UNCHANGED)
    torch.testing.assert_close(own.flatten(1, 2), tokens, atol=1e-5, rtol=1e-5)
    # Another size, in between two, and a border that makes no patch.
    assert features(images[..., :100, :72], *UNCHANGED).shape[:3] == (2, 6, 4)
    assert torch.equal(features(images, *UNCHANGED), own)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
def test_patches_of_transformers_are_those_of_its_own_forward(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(t, f"{kind}Config")(**SMALL)
    extra = {"add_pooling_layer": False} if kind == "ViT" else {}
    model = getattr(t, f"{kind}Model")(config, **extra).eval()
    model.save_pretrained(tmp_path)
    processor = t.ViTImageProcessor(image_mean=IMAGENET[0], image_std=IMAGENET[1])
    processor.save_pretrained(tmp_path)
    features, record = auxiliary.load(f"hf:{tmp_path}", "cpu")
    images = torch.rand(2, 3, 32, 32)
    tokens = model(pixel_values=images).last_hidden_state[:, -16:]
    own = features(images, *IMAGENET)  # as the processor leaves them
    torch.testing.assert_close(own.flatten(1, 2), tokens, atol=1e-5, rtol=1e-5)
    assert features(images[..., :20], *IMAGENET).shape == (2, 4, 2, 32)
    assert record["weights_sha256"] == file_sha256(tmp_path / "model.safetensors")


def test_a_users_encoder_sees_the_images_by_its_own_mean_and_std(own: str) -> None:
    features, record = auxiliary.load(own, "cpu")
    pixels = torch.rand(1, 3, 8, 12)
    mean, std = (torch.tensor(one)[:, None, None] for one in IMAGENET)
    seen = features((pixels - mean) / std, *IMAGENET)
    expected = torch.nn.functional.avg_pool2d((pixels - 0.5) / 0.25, 4)
    torch.testing.assert_close(seen, expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)
    assert record["weights_sha256"] is None
    assert record["code_sha256"] == file_sha256(Path(own.removeprefix("python:")))


def refused(text: str) -> str:
    with pytest.raises(UsageError) as raised:
        auxiliary.load(text, "cpu")
    assert "\n" not in str(raised.value)
    assert text in str(raised.value)
    return str(raised.value)


def test_what_cannot_guide_another_encoder(timm_name: str, tmp_path: Path) -> None:
    path = Path(timm_name.removeprefix("timm:test_vit/"))
    state = torch.load(path)
    assert "timm's ResNet has no patch tokens" in refused("timm:resnet18")
    assert "nearest: timm:vit_base_patch8_224.dino, " in refused("timm:vit_base_patch8_224.dinox")
    with offline():
        assert "offline mode is enabled" in refused("timm:vit_small_patch16_dinov3_qkvb.lvd1689m")
    assert "no such file" in refused("timm:test_vit/none.pt")
    assert "forms: timm:ARCH" in refused("openclip:ViT-B-16/openai")
    assert "'dino'; nearest: timm:vit_base_patch8_224.dino, timm:vit_" in refused("dino")
    for change, message in (
        (lambda s: s.pop("blocks.0.attn.qkv.weight"), "Missing key"),
        (lambda s: s["norm.weight"].fill_(float("nan")), "NaN"),
    ):
        broken = {name: tensor.clone() for name, tensor in state.items()}
        change(broken)
        torch.save(broken, tmp_path / "broken.pt")
        assert message in refused(f"timm:test_vit/{tmp_path / 'broken.pt'}")
    own = tmp_path / "own.py"
    own.write_text(PLAIN.replace("patch_size, image_mean, image_std = patch_size,", "pass;"))
    assert "no attribute 'patch_size'" in refused(f"python:{own}")
    own.write_text(PLAIN.replace("avg_pool2d(images, 4)", "avg_pool2d(images, 2)"))
    assert "`encode_patches` returns (1, 4, 2, 3)" in refused(f"python:{own}")
    own.write_text(PLAIN.replace("torch.nn.functional.avg_pool2d(images, 4)", "images.none"))
    assert "has no attribute 'none'" in refused(f"python:{own}")
    t.CLIPConfig().save_pretrained(tmp_path / "clip")
    assert "it is a clip" in refused(f"hf:{tmp_path / 'clip'}")
    config = t.ViTConfig(**SMALL)
    t.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    t.ViTImageProcessor().save_pretrained(tmp_path / "vit")
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path / "vit")
    assert "its weights lack or misshape" in refused(f"hf:{tmp_path / 'vit'}")


def test_models_that_cannot_be_guided(own: str, tiny_archs: dict[str, str]) -> None:
    for name, message in (
        (f"openclip:{tiny_archs['tiny-resnet']}/random", "ModifiedResNet, has no patch embeddings"),
        ("python:examples/own_model.py", "is defined for COSMOS models and OpenCLIP's own"),
    ):
        with pytest.raises(UsageError, match=message):
            load(name, auxiliary=own)
    with pytest.raises(UsageError, match="needs an encoder that guides it"):
        load("scenes-clip").encode_patches(torch.zeros(1, 3, 64, 64), "proxy")


@torch.no_grad()
def test_windows_reach_the_other_encoder_by_its_own_mean_and_std(own: str) -> None:
    """The scenes are normalised as their protocol states, which here is not as the model's."""
    guided = load("scenes-clip", auxiliary=own)
    protocol = find_known("scenes-seg", "scenes")
    options = RunOptions(attention="proxy", auxiliary=own)
    encoder = make_segmenter(
        guided, replace(protocol, mean=(9, 99, 199), std=(50, 60, 70)), options
    )
    pixels = torch.rand(1, 3, 64, 80)
    mean, std = (torch.tensor(one)[:, None, None] / 255 for one in ((9, 99, 199), (50, 60, 70)))
    images = (pixels - mean) / std
    colours = F.avg_pool2d((pixels - 0.5) / 0.25, 4).permute(0, 2, 3, 1)
    expected = encode_patches(guided.model.visual, images, "proxy", lambda _: colours)
    found = encoder.encoder.encode_patches(images, "proxy")
    assert found.shape[:3] == (1, 16, 20)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def records(folder: str) -> dict[str, Any]:
    """Results by the name of the encoder that guided, or `none`."""
    rows = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    return {row["provenance"].get("auxiliary", {"spec": "none"})["spec"]: row for row in rows}


RUN = ("run", "--model", "scenes-clip", "--dataset", "scenes-seg", "--limit", 2, "--no-cache")


def test_results_name_the_other_encoder(
    timm_name: str, own: str, command: Callable[..., Any]
) -> None:
    guided = (*RUN, "--attention", "proxy", "--save-predictions", "maps", "--auxiliary")
    for options in (RUN, (*guided, timm_name), (*guided, own)):
        ended = command(*options, "--output", "out")
        assert ended.status == 0, ended.err
    assert (
        f"scenes-clip (proxy: {own}, first 2 only)"
        in command("leaderboard", "out", "--format", "csv").out
    )
    found = records("out")
    assert {*found} == {"none", timm_name, own}
    assert len([*Path("maps").iterdir()]) == 2
    plain, by_timm = found["none"], found[timm_name]
    assert "auxiliary" not in plain["provenance"]
    assert plain["metrics"] != by_timm["metrics"]
    record = by_timm["provenance"]["auxiliary"]
    assert record["weights_sha256"] == file_sha256(Path(timm_name.removeprefix("timm:test_vit/")))
    assert (record["beta"], record["gamma"], record["patch_size"]) == (1.2, 3.0, 16)
    more = sum(parameter.numel() for parameter in timm.create_model("test_vit").parameters())
    facts, without = by_timm["model"]["facts"], plain["model"]["facts"]
    assert facts["parameters"] == without["parameters"] + more
    assert facts["image_gflops"] > without["image_gflops"]
    assert facts["text_gflops"] == without["text_gflops"]
    of_function = found[own]["model"]["facts"]  # it may compute by other means than PyTorch's
    assert (of_function["parameters"], of_function["image_gflops"]) == (None, None)
    assert {facts["training_data"], of_function["samples_seen"]} == {None}
    # Another version of the file is another model.
    assert "there already: 1 of 1" in command(*guided, own, "--output", "out", "--dry-run").out
    Path(own.removeprefix("python:")).write_text(PLAIN + "# another version\n")
    assert "there already: 0 of 1" in command(*guided, own, "--output", "out", "--dry-run").out
    changed = json.loads(json.dumps(found[own]))
    changed["provenance"]["auxiliary"]["code_sha256"] = "0" * 64
    rows = [ResultRow(**{**row, "samples": "a.npz"}) for row in (found[own], changed)]
    listed = label_results(StoredResult(Path(), row) for row in rows)
    assert len({one.model for one in listed}) == 2
    assert "their auxiliary differ" in result_warnings(listed)[0]


def test_neither_batch_size_nor_autocast_changes_what_is_measured(timm_name: str) -> None:
    options: Any = {"attention": "proxy", "auxiliary": timm_name, "limit": 2, "cache": False}
    rows = [
        evaluate("scenes-clip", "scenes-seg", **options, **how)
        for how in ({}, {"batch_size": 1}, {"precision": "amp"})
    ]
    first, alone, half = (row.metrics["mIoU"] for row in rows)
    assert alone == first
    assert half == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--auxiliary", "timm:test_vit"), "go together"),
        (("--attention", "proxy"), "go together"),
        (("--attention", "proxy", "--auxiliary", "timm:no/no.pt"), "no such file no.pt"),
        (("--attention", "proxy", "--auxiliary", "vit"), "forms: timm:ARCH"),
        (
            ("--attention", "proxy", "--auxiliary", "timm:x", "--task", "cls"),
            "is a data set of task cls",
        ),
        (
            ("--attention", "proxy", "--auxiliary", "timm:x", "--task", "all"),
            "localisation, and scenes-",
        ),
    ],
)
def test_misuse(options: tuple[str, ...], message: str, command: Callable[..., Any]) -> None:
    ended = command("run", "--task", "seg", *options)
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_maps_of_cross_attention_have_no_other_last_block(own: str) -> None:
    options: Any = {"attention": "proxy", "auxiliary": own, "limit": 2, "cache": False}
    with pytest.raises(UsageError, match="--protocol localisation-similarity"):
        evaluate("scenes-cosmos", "scenes-loc", **options)
    row = evaluate("scenes-cosmos", "scenes-loc", protocol="localisation-similarity", **options)
    assert row.provenance["auxiliary"]["patch_size"] == 4
