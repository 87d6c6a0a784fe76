"""`--set` on the scenes recipe."""

import json
import re

import pytest

from cosmos_core.methods.silc import SilcMethod
from cosmos_core.methods.slip import SlipMethod
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import option_sources, override


@pytest.fixture(scope="module")
def config():
    return RECIPES["scenes_cosmos"]()


@pytest.mark.parametrize(
    ("recipe", "assignments", "warmup", "source"),
    [
        ("scenes_cosmos", ["optim.steps=200"], 40, "optim.steps"),  # a fifth
        ("scenes_cosmos", ["optim.steps=500"], 100, "recipe"),  # already a fifth
        ("scenes_cosmos", ["optim.steps=200", "optim.warmup_steps=70"], 70, "--set"),
        ("scenes_cosmos", ["optim.steps=6000"], 100, "recipe"),
        ("debug", ["optim.steps=8"], 2, "optim.steps"),  # a fourth, as of the recipe's 24
        ("scenes_small", [], 100, "recipe"),
    ],
)
def test_a_shortened_run_has_a_shorter_warm_up(recipe, assignments, warmup, source):
    base = RECIPES[recipe]()
    changed = override(base, assignments)
    assert changed.optim.warmup_steps == warmup
    assert option_sources(base, changed, assignments)["optim.warmup_steps"] == source


def test_values_are_replaced_and_nothing_else(config):
    settings = ["optim.steps=7", "optim.lr=1", "image.global_scale=[0.9, 1]"]
    changed = override(config, [*settings, "compute.precision=fp32"])
    assert (changed.optim.steps, changed.optim.lr) == (7, 1.0)
    assert changed.image.global_scale == (0.9, 1.0)
    assert changed.compute.precision == "fp32"
    assert changed.text == config.text
    assert changed.optim.betas == config.optim.betas


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("optim.lr=1e-3", 0.001),
        ("optim.momentum_ramp=true", True),
        ("optim.gradient=true", "true"),  # a choice whose name is JSON's for something else
        ("optim.betas=0.9,0.95", (0.9, 0.95)),
        ("image.jitter=[0, 0, 0, 0]", (0.0, 0.0, 0.0, 0.0)),
        ("data.shards=0", "0"),
        ("data.shards=a=b", "a=b"),
        ("watch.datasets=", ""),
        ("watch.loggers=[tensorboard, wandb]", ("tensorboard", "wandb")),
        ('watch.loggers=["wandb"]', ("wandb",)),
        ("watch.loggers=", ()),
        ("watch.profile=100,110", (100, 110)),
    ],
)
def test_texts_become_values_of_the_type_of_their_field(config, assignment, value):
    group, name = assignment.partition("=")[0].split(".")
    field_value = getattr(getattr(override(config, [assignment]), group), name)
    assert field_value == value
    assert type(field_value) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.step=7", "no 'step'; nearest: optim.steps"),
        ("optm.steps=7", "no 'optm'; nearest: optim.steps"),
        ("optim.learning_rate=7", "no 'learning_rate'; nearest: optim.lr"),
        ("optim.ema=0.9999", "no 'ema'; nearest: optim.momentum"),
        ("nothing.like.it=7", "no 'nothing'; nearest: recipe, method, architecture, data"),
        ("optim.steps", "takes key=value, not 'optim.steps'"),
        ("optim.steps=many", "a valid integer, not "),
        ("optim.lr=fast", "a valid number, not fast; for example 0.001"),
        (f"optim.lr={10**400}", "a valid number, not "),
        ("optim.steps=" + "9" * 6000, "a valid integer, not "),
        ("optim.momentum_ramp=tru", "a valid boolean, not tru; for example false"),
        ("optim.steps.x=1", "'steps' has no parts"),
        ("optim=adam", "'optim' is not one value; its parts: steps, batch_size,"),
        ("image.global_scale=[0.9]", "Field required, not (0.9,); for example 0.4, 1.0"),
        ("image.global_scale=[0.9", "a valid tuple, not [0.9; for example 0.4, 1.0"),
        ("image.global_scale=0.9,wide", "a valid tuple, not [0.9,wide]; for example"),
        ('image.global_scale=[0.9, "wide"]', "a valid number, not wide; for example 0.4, 1.0"),
        ("optim.gradient=tru", "'true' or 'published', not 'tru'; nearest: true"),
        ("compute.precision=bf61", "'auto', 'fp32', 'bf16' or 'fp16', not 'bf61'; nearest: bf16"),
        ("watch.loggers=wandbb", "'tensorboard' or 'wandb', not 'wandbb'; nearest: wandb"),
        ("method=slipp", "'slipp' is none of clip, cosmos, "),
        ("method.name=slip", "no 'name'; nearest: "),
        ("method.crossattention=false", "no 'crossattention'; nearest: method.cross_attention"),
        ("architecture=ViT-B16", "unknown architecture 'ViT-B16'; nearest: ViT-B-16"),
        ("architecture=nowhere.json", "nowhere.json: cannot read the architecture"),
        ('architecture={"embed_dim": 8}', "an architecture needs text_cfg, vision_cfg"),
        ("architecture.embed_dim=8", "'architecture' has no parts"),
    ],
)
def test_bad_assignments_are_one_line_that_begins_with_their_key(config, assignment, message):
    with pytest.raises(ValueError, match=r"^--set") as caught:
        override(config, [assignment])
    text = str(caught.value)
    assert message in text
    assert assignment.partition("=")[0] in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("optim.steps=0", "greater than 0, not 0"),
        ("optim.warmup_steps=-1", "greater than or equal to 0, not -1"),
        ("optim.betas=0.9,98", "less than 1, not 98"),
        ("optim.betas=1,1", "less than 1, not 1"),
        ("data.workers=-1", "greater than or equal to 0, not -1"),
        ("optim.lr=1e400", "a finite number, not inf"),
        ("image.jitter=0,0,0,1e999", "a finite number, not inf"),
        (f"optim.steps={10**8}", "less than 100000000, not 100000000"),
        (f"seed={10**30}", f"less than or equal to 2147483647, not {10**30}"),
        ("data.workers=5000", "less than or equal to 1024, not 5000"),
        ("image.global_scale=0.9,0.4", "a smaller, then a larger number, not (0.9, 0.4)"),
        ("image.local_scale=0,0.4", "greater than 0, not 0"),
        ("method.prototypes=0", "greater than 0, not 0"),
    ],
)
def test_values_outside_of_their_range_are_refused(config, assignment, reason):
    message = f"--set {assignment.partition('=')[0]}: Input should be {reason}; for example "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        override(config, ["method=silc", assignment])


@pytest.mark.parametrize(
    ("assignment", "value"),
    [("watch.profile=5,3", "(5, 3)"), ("image.caption_scale=0.5", "(0.5,)")],
)
def test_an_option_that_is_empty_gives_no_example(config, assignment, value):
    with pytest.raises(ValueError, match="Input should be a smaller and a larger") as caught:
        override(config, [assignment])
    assert str(caught.value).endswith(f"a larger number, or none, not {value}")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("raw_caption", ("raw_caption",)),
        ("raw_caption,shortIB_captions", ("raw_caption", "shortIB_captions")),
        ('["original_caption", "caption"]', ("original_caption", "caption")),
        ("", ()),
        ("[]", ()),
    ],
)
def test_captions_are_named_by_their_keys(config, text, keys):
    changed = override(config, ["text.captions=longIB_captions", f"text.captions={text}"])
    assert changed.text.captions == keys
    assert override(config, [f"text.captions={text}"]).text.captions == keys


def test_an_unknown_key_of_captions_is_one_line(config):
    with pytest.raises(
        ValueError, match=r"^--set text\.captions: Input should be 'raw_cap"
    ) as caught:
        override(config, ["text.captions=raw_captions"])
    assert str(caught.value).endswith("not 'raw_captions'; nearest: raw_caption")
    assert "\n" not in str(caught.value)


def test_a_method_is_chosen_by_name_and_brings_its_own_options(config):
    assert override(config, ["method=slip"]).method == SlipMethod()
    changed = override(config, ["method=silc", "method.prototypes=64"])
    assert changed.method == SilcMethod(prototypes=64)
    with pytest.raises(ValueError, match="no 'prototypes'; nearest: "):
        override(config, ["method.prototypes=64"])
    assert override(config, ["method.prototypes=64", "method=silc"]) == changed  # in any order


SHARED = {"global_size": 224, "local_size": 96, "caption_scale": ()}
CROP_ONLY = {"flip_p": 0, "jitter_p": 0, "grayscale_p": 0, "blur_p": (0, 0, 0), "solarize_p": 0}


@pytest.mark.parametrize(
    ("method", "momentum", "image"),
    [
        ("clip", 0.999, {**SHARED, **CROP_ONLY, "global_scale": (0.9, 1.0)}),
        (
            "slip",
            0.999,
            {
                **SHARED,
                **{"caption_scale": (0.5, 1.0), "global_scale": (0.08, 1.0), "flip_p": 0.5},
                **{"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "grayscale_p": 0.2},
                **{"blur_p": (0.5, 0.5, 0.5), "solarize_p": 0},
            },
        ),
        (
            "silc",
            0.966,
            {
                **SHARED,
                **CROP_ONLY,
                **{"global_scale": (0.4, 1.0), "local_scale": (0.05, 0.4), "locals": 8},
            },
        ),
    ],
)
def test_a_method_brings_the_views_and_the_momentum_of_its_paper(method, momentum, image):
    cosmos = RECIPES["cc12m"]()
    changed = override(cosmos, [f"method={method}"])
    assert {name: getattr(changed.image, name) for name in image} == image
    assert (changed.optim.momentum, changed.optim.momentum_ramp) == (momentum, False)
    assert changed.optim.lr == cosmos.optim.lr
    # Values that a user sets stay.
    settings = ["image.flip_p=0.25", "optim.momentum=0.5", f"method={method}"]
    with_settings = override(cosmos, settings)
    assert (with_settings.image.flip_p, with_settings.optim.momentum) == (0.25, 0.5)
    assert override(cosmos, [f"method={method}", "method=cosmos"]) == cosmos


@pytest.mark.parametrize("method", ["clip", "slip", "silc", "cosmos"])
def test_on_scenes_the_views_and_the_momentum_of_the_recipe_stay(config, method):
    changed = override(config, [f"method={method}"])
    assert (changed.image, changed.optim) == (config.image, config.optim)


def test_options_of_the_recipes_own_method_are_replaced_one_by_one(config):
    changed = override(config, ["method.cross_attention=false"]).method
    assert (changed.cross_attention, changed.distillation) == (False, True)


def test_architectures_are_a_name_a_file_or_json(config, tmp_path):
    named = override(config, ["architecture=ViT-B-32"]).architecture
    assert named == "ViT-B-32"
    small = {**config.architecture, "embed_dim": 64}
    (tmp_path / "small.json").write_text(json.dumps(small))
    for text in (tmp_path / "small.json", json.dumps(small)):
        assert override(config, [f"architecture={text}"]).architecture == small


def test_every_value_of_a_recipe_can_be_set_to_what_it_is(config):
    """All fields have types that `--set` knows; no field is written wrongly as text."""
    for group in ("optim", "data", "image", "text", "compute", "save", "watch", "method"):
        for name, value in vars(getattr(config, group)).items():
            if (group, name) == ("method", "name"):
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            assert override(config, [f"{group}.{name}={text}"]) == config
