"""The costs of a model: operations counted by hand, OpenCLIP's published profile, trainings."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.encoders import TINY, load, save_cosmos
from torch import Tensor, nn

import cosmos_core
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.recipes import EPOCHS, TRAINING_SETS
from cosmos_core.utils.distributed import SINGLE_PROCESS
from cosmos_eval import TwoTower
from cosmos_eval.models.facts import model_facts
from cosmos_eval.models.specs import RELEASED, parse_model_spec
from cosmos_eval.models.training import training_facts
from cosmos_eval.protocols.facts import profile_of, training_of
from cosmos_eval.runner import facts as run_facts
from cosmos_eval.runner.facts import ImageCounter, facts_of
from cosmos_eval.types import Progress, RunOptions


def block(tokens: int, width: int) -> tuple[int, int]:
    """Multiply-accumulates and parameters of a block with an MLP of four times the width."""
    projections = tokens * width * (3 * width + width)  # to queries, keys, values; the output
    scores_and_mixing = 2 * tokens * tokens * width
    mlp = 2 * tokens * width * 4 * width
    norms, biases = 4 * width, 3 * width + width + 4 * width + width
    weights = 4 * width * width + 8 * width * width
    return projections + scores_and_mixing + mlp, weights + biases + norms


# 32 pixels in patches of 8 are 16 tokens and one of the class; 2 blocks of 32; to 16 dimensions.
PATCHES = 16 * (3 * 8 * 8) * 32
IMAGE_MACS = PATCHES + 2 * block(17, 32)[0] + 32 * 16
IMAGE_PARAMETERS = 3 * 8 * 8 * 32 + 32 + 17 * 32 + 2 * block(17, 32)[1] + 2 * 2 * 32 + 32 * 16
# 20 tokens of 16; two norms less than an image's tower.
TEXT_MACS = 2 * block(20, 16)[0] + 16 * 16
TEXT_PARAMETERS = 49408 * 16 + 20 * 16 + 2 * block(20, 16)[1] + 2 * 16 + 16 * 16
BY_HAND = {
    "image_parameters": IMAGE_PARAMETERS,
    "text_parameters": TEXT_PARAMETERS,
    "image_gflops": 2 * IMAGE_MACS / 1e9,
    "text_gflops": 2 * TEXT_MACS / 1e9,
    "image_size": [32, 32],
    "patch_size": 8,
    "embedding_size": 16,
    "context_length": 20,
}


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("tiny", "fp32"), ("tiny", "amp"), ("tiny-custom", "bf16"), ("tiny-bidirectional", "fp32")],
)
def test_a_small_clip_counted_by_hand(kind, precision, tiny_archs):
    encoder = load(f"openclip:{tiny_archs[kind]}/random", precision=precision)
    before = [parameter.requires_grad for parameter in encoder.model.parameters()]
    facts = model_facts(encoder)
    # The scale of the logits is of neither tower.
    assert facts == {**BY_HAND, "parameters": IMAGE_PARAMETERS + TEXT_PARAMETERS + 1}
    assert [parameter.requires_grad for parameter in encoder.model.parameters()] == before
    assert torch.backends.mha.get_fastpath_enabled()


def test_cross_attention_counts_only_among_all_parameters(tmp_path):
    save_cosmos(tmp_path / "last.safetensors")
    facts = model_facts(load(f"cosmos:{tmp_path / 'last.safetensors'}"))
    model = cosmos_core.create_model(TINY)
    assert facts == {**BY_HAND, "parameters": sum(p.numel() for p in model.parameters())}


def test_a_resnet_has_no_patches(tiny_archs):
    facts = model_facts(load(f"openclip:{tiny_archs['tiny-resnet']}/random"))
    assert facts["patch_size"] is None
    assert facts["image_gflops"] > 0


class PoolingTower(nn.Module):
    """An image tower whose queries are parameters, with the kernel that PyTorch chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.ParameterList([torch.ones(1, 1, 4, 8), torch.ones(1, 1, 1, 8)])
        self.project = nn.Linear(8, 8, bias=False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).mT.unflatten(2, (1, 3)).transpose(1, 2)  # (B, 1, 16, 3)
        query = torch.cat([self.project(self.queries[0]), self.queries[1]], dim=2)
        mixed = F.scaled_dot_product_attention(query, F.pad(tokens, (0, 5)), F.pad(tokens, (0, 5)))
        return mixed.flatten(1)


def two_tower(size: int | None, **changes: Any) -> TwoTower:
    """Make a model of images of 4 x 4 px, or of any size if `size` is None."""

    def transform(image: Image.Image) -> Tensor:
        return torch.ones(3, *((4, 4) if size else image.size))

    def tokenize(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[len(text) % 9, 1] for text in texts])

    functions: dict[str, Any] = {
        "encode_image": PoolingTower().forward,
        "encode_text": nn.EmbeddingBag(9, 40).forward,
        "transform": transform,
        "tokenize": tokenize,
    }
    return TwoTower(name="own", **(functions | changes))


def test_facts_of_a_users_functions_counted_by_hand():
    facts = model_facts(two_tower(4))
    attention = 4 * 8 * 8 + 2 * 5 * 16 * 8  # a projection; scores and mixing over 16 tokens
    assert facts == {
        "parameters": 5 * 8 + 8 * 8 + 3 + 9 * 40,
        "image_parameters": 5 * 8 + 8 * 8,
        "text_parameters": None,  # no context: the tokenizer cuts nothing
        "image_gflops": 2 * attention / 1e9,
        "text_gflops": None,
        "image_size": [4, 4],
        "patch_size": None,
        "embedding_size": 40,
        "context_length": None,
    }


def test_overlapping_windows_are_not_patches():
    class Stem(nn.Module):
        def __init__(self, stride: int) -> None:
            super().__init__()
            self.patch_size, self.conv = 2, nn.Conv2d(3, 5, 2, stride)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images).mean((2, 3))

    words = nn.EmbeddingBag(9, 5).forward
    towers = (two_tower(4, encode_image=Stem(n).forward, encode_text=words) for n in (1, 2))
    assert [model_facts(tower)["patch_size"] for tower in towers] == [None, 2]


def test_unknown_facts_are_none(colour_encoder):
    assert set(model_facts(colour_encoder).values()) == {None}
    assert model_facts(two_tower(None))["image_size"] is None


def test_a_run_goes_on_if_facts_cannot_be_counted():
    def refuse(texts: list[str]) -> Tensor:
        raise ValueError("too long")

    facts = model_facts(two_tower(4, tokenize=refuse))
    assert (facts["context_length"], facts["embedding_size"]) == (None, 40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["ViT-B-32", "EVA02-B-16", "convnext_base", "RN50", "coca_ViT-B-32"],
)
def test_openclips_published_profile(architecture):
    facts, published = (
        model_facts(load(f"openclip:{architecture}/random")),
        profile_of(architecture),
    )
    assert published.keys() < facts.keys()
    for name, value in published.items():
        # Published with two decimals.
        assert facts[name] == (pytest.approx(value, rel=2e-3) if name[-1] == "s" else value), name


# SHA-256 of docs/model_profile.csv at the commit that the rows name.
PROFILE = "ddee2c3340219a473404e5f6b05d5570c9de7a7547a46928b7ab1e4b32d01146"


def table(name: str) -> list[dict[str, str]]:
    text = files("cosmos_eval.protocols.facts").joinpath(name).read_text("utf-8")
    return [*csv.DictReader(text.splitlines())]


def test_the_profile_is_openclips_file():
    text = files("cosmos_eval.protocols.facts").joinpath("openclip_profile.csv").read_text("utf-8")
    without_sources = "".join(f"{line.rpartition(',')[0]}\n" for line in text.splitlines())
    assert hashlib.sha256(without_sources.encode()).hexdigest() == PROFILE
    for row in table("openclip_profile.csv"):
        commit = row["source"].split("/")[6]
        assert len(commit) == 40
    assert profile_of("ViT-L-14-336-quickgelu") == {
        "parameters": 427_940_000,
        "image_parameters": 304_290_000,
        "text_parameters": 123_650_000,
        "image_gflops": 381.92,
        "text_gflops": 13.3,
        "image_size": [336, 336],
        "embedding_size": 768,
    }
    assert profile_of("of-nobody") == {}


def test_trainings_are_those_of_their_sources():
    for name in RELEASED:
        samples = TRAINING_SETS[name.partition("_")[2]].samples * EPOCHS
        assert training_of(f"cosmos:{name}")["samples_seen"] == samples
    assert training_of("openclip:ViT-B-32-quickgelu/openai") == {
        "training_data": "WIT",
        "samples_seen": 400_000_000 * 32,
    }
    assert training_of("openclip:ViT-L-14/laion400m_e31") == {"training_data": "LAION-400M"}
    for other in ("cosmos:runs/vitb16_cc3m", "openclip:ViT-B-32/mine/openai", "hf:a/b"):
        assert training_of(other) == {}
    for row in table("training.csv"):
        assert row["source"].startswith("https://")
        # The names of most weights state, roughly, the samples that their training saw.
        match = re.search(r"_s(\d+)([mb])_", row["model"])
        if match and row["samples_seen"]:
            number, unit = match.groups()
            samples_in_name = int(number) * {"m": 10**6, "b": 10**9}[unit]
            assert int(row["samples_seen"]) == pytest.approx(samples_in_name, rel=0.3)


def test_a_checkpoint_and_a_model_card_state_the_training(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    unknown = {"training_data": None, "samples_seen": None}
    bundled = {"training_data": "scenes:20000", "samples_seen": 160_000}
    assert training_facts(parse_model_spec("scenes-cosmos")) == bundled
    path = tmp_path / "own.safetensors"
    for training, expected in (
        ({"samples_seen": 64, "config": {"data": {"shards": "a.tar"}}}, ("a.tar", 64)),
        ({"samples_seen": "many", "config": []}, (None, None)),
        ({"samples_seen": True, "config": {"data": {"shards": ""}}}, (None, None)),
        ({"config": {"data": {"shards": "\ud800.tar"}}}, ("?.tar", None)),
        (None, (None, None)),
    ):
        save_checkpoint(path, {"teacher": cosmos_core.create_model(TINY)}, "clip", TINY, training)
        assert tuple(training_facts(parse_model_spec(f"cosmos:{path}")).values()) == expected
    spec = parse_model_spec(f"hf:{tmp_path}")
    assert training_facts(spec) == unknown
    for card, data in (
        ("---\ndatasets:\n- laion/a\n- b\n---\n# a model", "laion/a, b"),
        ("---\ndatasets: 3\n---\n", None),
        ('---\ndatasets: "\\ud800"\n---\n', "?"),
        ("---\n: : [\n---\n", None),
        ("nothing", None),
    ):
        (tmp_path / "README.md").write_text(card)
        assert training_facts(spec) == {**unknown, "training_data": data}
    assert not caplog.records  # the hub's library warns of such cards


def test_a_counted_model_is_not_built_again(tmp_path):
    spec, options = parse_model_spec("scenes-clip"), RunOptions(cache=str(tmp_path))
    first, second = load("scenes-clip"), load("scenes-clip")
    facts = facts_of(first, spec, options, pytest.fail)
    assert facts == facts_of(second, spec, options, pytest.fail)
    assert "built" in vars(first)
    assert "built" not in vars(second)
    assert facts == {**model_facts(first), **training_facts(spec)}
    assert json.loads(json.dumps(facts)) == facts
    (tmp_path / "file").write_text("no folder")
    assert facts_of(first, spec, RunOptions(cache=str(tmp_path / "file")), pytest.fail) == facts


@pytest.mark.parametrize(
    ("steps", "rate"),
    [
        # The first step, in which a model is built, counts only where there is no other.
        ([(32, ""), (64, ""), (70, "")], 38 / 2),
        ([(50, "50 were embedded already"), (64, ""), (70, "")], 6),
        ([(32, "")], 32 / 4),
        ([(70, "70 were embedded already")], None),
        ([(32, ""), (40, ""), (32, ""), (33, "")], round(41 / 3, 3)),  # two passes
        ([], None),
    ],
)
def test_only_images_that_were_encoded_count(steps, rate, monkeypatch):
    """The clock makes one step per second."""
    monkeypatch.setattr(run_facts, "perf_counter", partial(next, itertools.count(10.0)))
    forwarded_steps: list[Progress] = []
    counter = ImageCounter(forwarded_steps.append)
    image_steps = [Progress("images", done, 70, note) for done, note in steps]
    for step in [*image_steps, Progress("captions", 500, 500)]:
        counter(step)
    assert forwarded_steps[:-1] == image_steps
    seconds = {"images": 4.0, "total": 9.0}
    assert counter.images_per_second(seconds, SINGLE_PROCESS) == rate
    counter.restart()
    assert counter.images_per_second(seconds, SINGLE_PROCESS) is None


def test_an_error_in_counting_is_noted():
    class FailingTower(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("out of\nmemory")

    notes: list[str] = []
    facts = model_facts(two_tower(4, encode_image=FailingTower(1, 1).forward), notes.append)
    assert facts["image_gflops"] is None
    assert facts["image_size"] == [4, 4]
    assert notes == ["GFLOPs per image of own cannot be counted: out of memory"]
