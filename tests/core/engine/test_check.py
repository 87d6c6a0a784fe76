"""What `check_config` lets through and what it refuses."""

import dataclasses
import random
import re

import numpy as np
import pytest
import torch

from cosmos_core.engine.check import check_config
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

SMALL = (
    '{"embed_dim": %d, "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 32, "layers": 1, '
    '"head_width": 16}, "text_cfg": {"context_length": 64, "vocab_size": %d, "width": 32, '
    '"heads": 2, "layers": 1%s}}'
)
WSD = ("optim.schedule=wsd", "optim.cooldown_steps=9")
ODD = "architecture=" + SMALL % (16, 882, ', "%s": true')


def check(*assignments, recipe="scenes_cosmos", world_size=1):
    check_config(override(RECIPES[recipe](), assignments), world_size=world_size)


@pytest.fixture
def tars(tmp_path):
    """Two empty tars: their contents are none of the check's business."""
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(bytes(1024))  # the end of a tar
    return tmp_path


@pytest.mark.parametrize(("recipe", "world_size"), [*((name, 16) for name in RECIPES), ("cc3m", 1)])
def test_every_recipe_is_accepted_once_it_has_shards(recipe, world_size, tars):
    config = RECIPES[recipe]()
    shards = config.data.shards or f"{tars}/a.tar"
    data = dataclasses.replace(config.data, shards=shards)
    check_config(dataclasses.replace(config, data=data), world_size=world_size)


@pytest.mark.parametrize(
    "assignments",
    [
        *([f"method={method}"] for method in ("clip", "slip", "silc", "cosmos")),
        ["optim.steps=10", "optim.warmup_steps=200"],
        ["method=clip", "image.local_size=30", "image.locals=0"],
        ["image.locals=0"],
        [*WSD, "optim.steps=11", "optim.warmup_steps=2"],
        ["optim.optimizer=timm:lion"],
        *([f"method={method}", "optim.gradient=published"] for method in ("clip", "slip")),
        ["optim.gradient=published"],
        ["method=slip", "image.caption_scale=0.5,1"],
        ["method=lit", "model.init=scenes-clip", "optim.gradient=published"],
    ],
    ids=" ".join,
)
def test_what_is_accepted(assignments):
    check(*assignments)


@pytest.mark.parametrize("name", ["cc3m", "merged30m_vitb32"])
def test_published_recipes_ask_for_their_shards(name):
    with pytest.raises(ValueError, match=r"^no training data: .*--set data\.shards="):
        check(recipe=name)


def test_a_file_that_is_no_tar_is_refused_before_devices_are(tmp_path):
    """`check_config` runs before `join_world`, which would say that there is no GPU."""
    path = tmp_path / "val.csv"
    path.write_text("filepath,title\na.jpg,a dog\n")
    with pytest.raises(ValueError, match=rf"^{path}: not an uncompressed tar \(27 bytes\)"):
        check(f"data.shards={path}", recipe="cc3m")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ([f"data.shards=scenes:{10**30}"], f"data.shards=scenes:{10**30}: scenes:N takes a num"),
        (["optim.batch_size=2000000000"], "the views of a batch (optim.batch_size=2000000000)"),
        (["image.locals=2000000000"], "the views of a batch (optim.batch_size=32) take"),
        (["method=silc", "method.prototypes=2000000000"], "the model has weights of"),
        (["method=slip", "method.hidden=2147483647"], "a model of this size cannot be built"),
        (["data.shards="], "no training data"),
        (["data.shards=scenes:0"], "data.shards=scenes:0: scenes:N takes a number of scenes"),
        (["data.weights=1"], "data.weights weighs several sets, and the scenes are one"),
        (
            ["data.weights=1", "data.keyed_order=true"],
            "data.keyed_order permutes an epoch, and data.weights draws with replacement; leave",
        ),
        (["data.shards=/nowhere/a.tar"], "no such shard: /nowhere/a.tar"),
        (["compute.accumulate=3"], "optim.batch_size=32 cannot be dealt to 1 processes in 3 parts"),
        (["image.global_size=224"], "image.global_size is 224, but the architecture takes images"),
        (
            ["image.local_size=30"],
            "image.local_size=30 is not a multiple of the architecture's",
        ),
        (["architecture=" + SMALL % (12, 882, "")], "architecture: embed_dim 12 does not divide"),
        (["architecture=" + SMALL % (16, 49408, "")], "the architecture has a vocabulary of 49408"),
        ([ODD % "no_causal_mask"], "architecture: the text tower must be causal"),
        ([ODD % "depth"], "a model of this architecture cannot be built: "),
        (["save.best=scenes-cls/teacher/acc1"], "save.best needs evaluations"),
        (["method=silc", "image.locals=0"], "image.locals is 0, and SILC needs local views"),
        *(
            (
                [f"method={name}", "image.caption_scale=0.5,1"],
                "image.caption_scale adds a view, for SLIP; leave it empty",
            )
            for name in ("cosmos", "flair", "siglip", "silc")
        ),
        (["optim.optimizer=lamb"], "optim.optimizer=lamb: takes adamw, muon or timm:NAME"),
        (
            ["optim.optimizer=timm:liom"],
            "optim.optimizer=timm:liom: not among the usable optimizers of timm; nearest: lion",
        ),
        (["optim.optimizer=timm:muon"], "optim.optimizer=timm:muon: not among the usable"),
        (
            ["optim.optimizer=timm:lion", "optim.eps=0.1"],
            "optim.optimizer=timm:lion has an eps of its own; leave out optim.eps",
        ),
        *(
            (
                [f"optim.optimizer=timm:{name}", "optim.betas=0.5,0.6"],
                f"optim.optimizer=timm:{name} does not take two betas; leave out optim.betas",
            )
            for name in ("adan", "sgdw", "adafactor")
        ),
        *(
            (
                ["optim.optimizer=timm:adamc", f"optim.{name}=0.5"],
                "optim.optimizer=timm:adamc decays all weights by one learning rate; leave out",
            )
            for name in ("image_lr_factor", "text_lr_factor", "layer_decay")
        ),
        (
            ["optim.optimizer=timm:lion", "parallel=fsdp"],
            "optim.optimizer=timm:lion needs whole weights, and parallel=fsdp shards them",
        ),
        *(
            (
                [f"method={name}", "optim.gradient=published"],
                "optim.gradient=published needs a method that gathers all features (clip, cosmos, "
                f"lit, slip), not {name}; leave it out",
            )
            for name in ("siglip", "flair", "silc")
        ),
        (["optim.cooldown_steps=9"], "optim.cooldown_steps needs the schedule wsd"),
        (["optim.schedule=wsd"], "optim.schedule=wsd needs the length of its decay: set optim.c"),
        (
            [*WSD, "optim.steps=10", "optim.warmup_steps=2"],
            "optim.steps=10 are fewer than the 2 steps of warm-up and the 9 of cooldown",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(assignments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        check(*assignments)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_refused_with_the_nearest():
    config = dataclasses.replace(RECIPES["scenes_cosmos"](), architecture="ViT-B-17")
    with pytest.raises(ValueError, match=r"^unknown architecture 'ViT-B-17'; nearest: .*ViT-B-1"):
        check_config(config, world_size=1)


def test_batches_are_dealt_to_processes_and_to_parts():
    check("optim.batch_size=32", "compute.accumulate=4", world_size=8)
    with pytest.raises(ValueError, match=r"dealt to 8 processes in 8 parts each; .* of 64$"):
        check("optim.batch_size=32", "compute.accumulate=8", world_size=8)


def test_the_vocabulary_must_be_that_of_the_data(tars):
    with pytest.raises(ValueError, match=r"vocabulary of 882 tokens, the tokenizer of shards one"):
        check(f"data.shards={tars}/a.tar")


def test_weights_are_one_a_set(tars):
    check("data.weights=1::2", f"data.shards={tars}/a.tar::{tars}/b.tar", recipe="cc3m")
    with pytest.raises(ValueError, match=r"^data\.weights has 2 weights for 1 sets"):
        check("data.weights=1::2", f"data.shards={tars}/a.tar", recipe="cc3m")


def test_a_check_draws_no_random_numbers():
    """It may come between seeding and training."""
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    for method in ("silc", "cosmos"):
        check(f"method={method}")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match=r"^compute\.compile needs a C\+\+ compiler: install g\+\+"
    ):
        check("compute.compile=true")
    monkeypatch.setenv("CXX", "true")  # any program
    check("compute.compile=true")
