"""Encoders that guide the last block of another: loaded by name, and in results."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
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
# A file of a user's: the features of a patch are its mean colour.
MEAN_COLOURS = """
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
    """Save timm's test_vit: patches of 16 px at 160 px, a class token and a classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "test_vit.pt"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    return f"timm:test_vit/{path}"


@pytest.fixture
def file_name(tmp_path: Path) -> str:
    """Write the file of mean colours of patches of 4 px; return its name as an encoder."""
    path = tmp_path / "own.py"
    path.write_text(MEAN_COLOURS)
    return f"python:{path}"


def channel_tensor(values: Sequence[float]) -> torch.Tensor:
    """Return a mean or standard deviation of three channels as (3, 1, 1)."""
    return torch.tensor(values)[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("arch", ["test_vit", "vit_tiny_patch16_dinov3_qkvb"])
def test_patches_of_timm_are_those_of_its_own_forward(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(arch).eval()
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    features, record = auxiliary.load(f"timm:{arch}/{path}", "cpu")
    assert record["weights_sha256"] == file_sha256(path)
    assert record["image_mean"] == [*model.pretrained_cfg["mean"]]
    assert record["image_std"] == [*model.pretrained_cfg["std"]]
    side = model.patch_embed.img_size[0]
    images = torch.rand(2, 3, side, side)
    mean, std = channel_tensor(record["image_mean"]), channel_tensor(record["image_std"])
    tokens = model.forward_features((images - mean) / std)[:, model.num_prefix_tokens :]
    patches = features(images, *UNCHANGED)
    torch.testing.assert_close(patches.flatten(1, 2), tokens, atol=1e-5, rtol=1e-5)
    # Images of another size, whose borders are narrower than a patch, change nothing for later.
    assert features(images[..., :100, :72], *UNCHANGED).shape[:3] == (2, 6, 4)
    assert torch.equal(features(images, *UNCHANGED), patches)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
def test_patches_of_transformers_are_those_of_its_own_forward(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(t, f"{kind}Config")(**SMALL)
    options = {"add_pooling_layer": False} if kind == "ViT" else {}
    model = getattr(t, f"{kind}Model")(config, **options).eval()
    model.save_pretrained(tmp_path)
    processor = t.ViTImageProcessor(image_mean=IMAGENET[0], image_std=IMAGENET[1])
    processor.save_pretrained(tmp_path)
    features, record = auxiliary.load(f"hf:{tmp_path}", "cpu")
    images = torch.rand(2, 3, 32, 32)
    tokens = model(pixel_values=images).last_hidden_state[:, -16:]
    patches = features(images, *IMAGENET)  # normalized as the processor does
    torch.testing.assert_close(patches.flatten(1, 2), tokens, atol=1e-5, rtol=1e-5)
    assert features(images[..., :20], *IMAGENET).shape == (2, 4, 2, 32)
    assert record["weights_sha256"] == file_sha256(tmp_path / "model.safetensors")


def test_images_reach_a_users_encoder_by_its_own_mean_and_std(file_name: str) -> None:
    features, record = auxiliary.load(file_name, "cpu")
    pixels = torch.rand(1, 3, 8, 12)
    imagenet_mean, imagenet_std = IMAGENET
    images = (pixels - channel_tensor(imagenet_mean)) / channel_tensor(imagenet_std)
    patches = features(images, imagenet_mean, imagenet_std)
    expected = F.avg_pool2d((pixels - 0.5) / 0.25, 4)
    torch.testing.assert_close(patches, expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)
    assert record["weights_sha256"] is None
    assert record["code_sha256"] == file_sha256(Path(file_name.removeprefix("python:")))


def refused(name: str) -> str:
    """Return the one line that says why an encoder is not loaded."""
    with pytest.raises(UsageError) as raised:
        auxiliary.load(name, "cpu")
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)
    return str(raised.value)


def test_encoders_that_cannot_guide_another_are_refused(timm_name: str, tmp_path: Path) -> None:
    path = Path(timm_name.removeprefix("timm:test_vit/"))
    state = torch.load(path)
    assert "timm's ResNet has no patch tokens" in refused("timm:resnet18")
    assert "nearest: timm:vit_base_patch8_224.dino, " in refused("timm:vit_base_patch8_224.dinox")
    with offline():
        assert "offline mode is enabled" in refused("timm:vit_small_patch16_dinov3_qkvb.lvd1689m")
    assert "no such file" in refused("timm:test_vit/none.pt")
    assert "forms: timm:ARCH" in refused("openclip:ViT-B-16/openai")
    assert "'dino'; nearest: timm:vit_base_patch8_224.dino, timm:vit_" in refused("dino")
    broken_path = tmp_path / "broken.pt"
    incomplete = {name: x for name, x in state.items() if name != "blocks.0.attn.qkv.weight"}
    torch.save(incomplete, broken_path)
    assert "Missing key" in refused(f"timm:test_vit/{broken_path}")
    torch.save(state | {"norm.weight": torch.full_like(state["norm.weight"], nan)}, broken_path)
    assert "NaN" in refused(f"timm:test_vit/{broken_path}")
    user_file = tmp_path / "own.py"
    pooling = "torch.nn.functional.avg_pool2d(images, 4)"
    for code, changed_code, message in (
        ("patch_size, image_mean, image_std = patch_size,", "pass;", "no attribute 'patch_size'"),
        (pooling, pooling.replace("4", "2"), "`encode_patches` returns (1, 4, 2, 3)"),
        (pooling, "images.none", "has no attribute 'none'"),
    ):
        user_file.write_text(MEAN_COLOURS.replace(code, changed_code))
        assert message in refused(f"python:{user_file}")
    t.CLIPConfig().save_pretrained(tmp_path / "clip")
    assert "it is a clip" in refused(f"hf:{tmp_path / 'clip'}")
    config = t.ViTConfig(**SMALL)
    t.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    t.ViTImageProcessor().save_pretrained(tmp_path / "vit")
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path / "vit")
    assert "its weights lack or misshape" in refused(f"hf:{tmp_path / 'vit'}")


def test_models_that_cannot_be_guided_are_refused(
    file_name: str, tiny_archs: dict[str, str]
) -> None:
    for name, message in (
        (f"openclip:{tiny_archs['tiny-resnet']}/random", "ModifiedResNet, has no patch embeddings"),
        ("python:examples/own_model.py", "is defined for COSMOS models and OpenCLIP's own"),
    ):
        with pytest.raises(UsageError, match=message):
            load(name, auxiliary=file_name)
    with pytest.raises(UsageError, match="needs an encoder that guides it"):
        load("scenes-clip").encode_patches(torch.zeros(1, 3, 64, 64), "proxy")


@torch.no_grad()
def test_windows_reach_the_other_encoder_by_its_own_mean_and_std(file_name: str) -> None:
    """Windows are normalised by the protocol's mean and standard deviation, not the model's."""
    guided = load("scenes-clip", auxiliary=file_name)
    mean, std = (9, 99, 199), (50, 60, 70)
    protocol = replace(find_known("scenes-seg", "scenes"), mean=mean, std=std)
    options = RunOptions(attention="proxy", auxiliary=file_name)
    segmenter = make_segmenter(guided, protocol, options)
    pixels = torch.rand(1, 3, 64, 80)
    images = (pixels - channel_tensor(mean) / 255) / (channel_tensor(std) / 255)
    colours = F.avg_pool2d((pixels - 0.5) / 0.25, 4).permute(0, 2, 3, 1)
    expected = encode_patches(guided.model.visual, images, "proxy", lambda _: colours)
    patches = segmenter.encoder.encode_patches(images, "proxy")
    assert patches.shape[:3] == (1, 16, 20)
    torch.testing.assert_close(patches, expected, atol=1e-4, rtol=0)


def results_by_auxiliary(folder: str) -> dict[str, Any]:
    """Read results; return them by the name of the encoder that guided, or `none`."""
    results = {}
    for path in sorted(Path(folder).glob("*.json")):
        result = json.loads(path.read_text())
        auxiliary_record = result["provenance"].get("auxiliary", {"spec": "none"})
        results[auxiliary_record["spec"]] = result
    return results


RUN = ("run", "--model", "scenes-clip", "--dataset", "scenes-seg", "--limit", 2, "--no-cache")


def test_results_name_the_other_encoder(
    timm_name: str, file_name: str, command: Callable[..., Any]
) -> None:
    guided_run = (*RUN, "--attention", "proxy", "--save-predictions", "maps", "--auxiliary")
    for options in (RUN, (*guided_run, timm_name), (*guided_run, file_name)):
        completed = command(*options, "--output", "out")
        assert completed.status == 0, completed.err
    leaderboard = command("leaderboard", "out", "--format", "csv").out
    assert f"scenes-clip (proxy: {file_name}, first 2 only)" in leaderboard
    results = results_by_auxiliary("out")
    assert {*results} == {"none", timm_name, file_name}
    assert len([*Path("maps").iterdir()]) == 2
    unguided, guided = results["none"], results[timm_name]
    assert "auxiliary" not in unguided["provenance"]
    assert unguided["metrics"] != guided["metrics"]
    record = guided["provenance"]["auxiliary"]
    assert record["weights_sha256"] == file_sha256(Path(timm_name.removeprefix("timm:test_vit/")))
    assert (record["beta"], record["gamma"], record["patch_size"]) == (1.2, 3.0, 16)
    # Facts of the model are those of both encoders.
    auxiliary_parameters = timm.create_model("test_vit").parameters()
    added_parameters = sum(parameter.numel() for parameter in auxiliary_parameters)
    facts, unguided_facts = guided["model"]["facts"], unguided["model"]["facts"]
    assert facts["parameters"] == unguided_facts["parameters"] + added_parameters
    assert facts["image_gflops"] > unguided_facts["image_gflops"]
    assert facts["text_gflops"] == unguided_facts["text_gflops"]
    # A function may compute without PyTorch.
    file_facts = results[file_name]["model"]["facts"]
    assert (file_facts["parameters"], file_facts["image_gflops"]) == (None, None)
    assert {facts["training_data"], file_facts["samples_seen"]} == {None}
    # Another version of the file is another model.
    run = (*guided_run, file_name, "--output", "out")
    assert "there already: 1 of 1" in command(*run, "--dry-run").out
    Path(file_name.removeprefix("python:")).write_text(MEAN_COLOURS + "# another version\n")
    assert "there already: 0 of 1" in command(*run, "--dry-run").out
    result = results[file_name]
    changed_result = copy.deepcopy(result)
    changed_result["provenance"]["auxiliary"]["code_sha256"] = "0" * 64
    rows = [ResultRow(**{**row, "samples": "a.npz"}) for row in (result, changed_result)]
    labelled_results = label_results(StoredResult(Path(), row) for row in rows)
    assert len({labelled.model for labelled in labelled_results}) == 2
    assert "their auxiliary differ" in result_warnings(labelled_results)[0]


def test_neither_batch_size_nor_autocast_changes_metrics(timm_name: str) -> None:
    options: Any = {"attention": "proxy", "auxiliary": timm_name, "limit": 2, "cache": False}
    default = evaluate("scenes-clip", "scenes-seg", **options).metrics["mIoU"]
    one_by_one = evaluate("scenes-clip", "scenes-seg", **options, batch_size=1).metrics["mIoU"]
    autocast = evaluate("scenes-clip", "scenes-seg", **options, precision="amp").metrics["mIoU"]
    assert one_by_one == default
    assert autocast == pytest.approx(default, abs=0.05)


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
def test_misuse_is_refused_in_one_line(
    options: tuple[str, ...], message: str, command: Callable[..., Any]
) -> None:
    completed = command("run", "--task", "seg", *options)
    assert completed.status == 2
    assert message in completed.err
    assert completed.err.count("\n") == 1


def test_maps_of_cross_attention_cannot_be_guided(file_name: str) -> None:
    options: Any = {"attention": "proxy", "auxiliary": file_name, "limit": 2, "cache": False}
    with pytest.raises(UsageError, match="--protocol localisation-similarity"):
        evaluate("scenes-cosmos", "scenes-loc", **options)
    result = evaluate("scenes-cosmos", "scenes-loc", protocol="localisation-similarity", **options)
    assert result.provenance["auxiliary"]["patch_size"] == 4
