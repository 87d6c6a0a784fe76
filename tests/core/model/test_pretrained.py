"""Pretrained weights: every source, every key accounted for, and what is refused."""

import copy
import json

import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from support.training import ARCHITECTURE, TEXT, VISION

import cosmos_core
from cosmos_core.engine.build import param_groups
from cosmos_core.model.build import create_model
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.model.pretrained import freeze, initialise, tower_of


def changed(vision=None, text=None, **more):
    return {
        **ARCHITECTURE,
        "vision_cfg": {**VISION, **(vision or {})},
        "text_cfg": {**TEXT, **(text or {})},
        **more,
    }


def fresh(architecture=ARCHITECTURE, kind="clip", seed=1):
    torch.manual_seed(seed)
    return create_model(architecture, kind)


@pytest.fixture
def source():
    """A model, and files of it by their kind."""
    return fresh(seed=0)


@pytest.fixture
def ours(source, tmp_path):
    path = tmp_path / "ours.safetensors"
    models = {"student": fresh(seed=5), "teacher": source}
    save_checkpoint(path, models, "clip", ARCHITECTURE, None)
    return path


def published(source, folder):
    path = folder / "published.pt"
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"student": {}, "teacher": state, "epoch": 3}, path)
    return path


def openclip_state(source, folder):
    path = folder / "epoch_3.pt"
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "name": "run"}, path)
    return path


def openclip_text_tower(source, folder):
    """As OpenCLIP's CustomTextCLIP has it, in safetensors."""
    path = folder / "open_clip_model.safetensors"
    state = {
        f"text.{key}" if tower_of(key) == "text" else key: value
        for key, value in source.state_dict().items()
    }
    safetensors.torch.save_file(state, path)
    return path


def openclip_architecture(source, folder):
    """An architecture that OpenCLIP knows by name, and a file."""
    (folder / "tiny-here.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(folder)
    path = folder / "weights.pt"
    torch.save(source.state_dict(), path)
    return f"openclip:tiny-here/{path}"


def hub_folder(source, folder):
    openclip_text_tower(source, folder)
    described = {"model_cfg": ARCHITECTURE, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return f"hf:{folder}"


@pytest.mark.parametrize(
    "write",
    [published, openclip_state, openclip_text_tower, openclip_architecture, hub_folder],
)
def test_a_state_is_found_whatever_its_layout(source, write, tmp_path):
    model = fresh()
    before = torch.get_rng_state()
    audit = initialise(model, ARCHITECTURE, str(write(source, tmp_path)), partial=False)
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert sorted(audit.loaded) == sorted(source.state_dict())
    assert (audit.resized, audit.new, audit.left_over) == ([], [], [])


def test_of_a_checkpoint_the_teacher_is_taken_and_added_modules_are_new(source, ours):
    model = fresh(kind="cosmos")
    drawn = {key: value.clone() for key, value in model.state_dict().items()}
    audit = initialise(model, ARCHITECTURE, str(ours), partial=False)
    for key, value in model.state_dict().items():
        expected = source.state_dict().get(key, drawn[key])
        assert torch.equal(value, expected)
    assert set(audit.new) == drawn.keys() - source.state_dict().keys()
    assert "visual.attn_cross_pool.ln_q.weight" in audit.new
    assert audit.summary("X") == f"model.init=X: {len(source.state_dict())} loaded, 0 resized, " + (
        f"{len(audit.new)} new, 0 left over keys"
    )
    back = initialise(fresh(), ARCHITECTURE, str(ours), partial=False)
    assert back.sha256 == audit.sha256


def test_transformers_features_are_the_models(tmp_path):
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(
        vision_config={**sizes, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        text_config={**sizes, "num_attention_heads": 2, "vocab_size": 20, "eos_token_id": 19}
        | {"max_position_embeddings": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    architecture = {**ARCHITECTURE, "quick_gelu": True}
    model = fresh(architecture).eval()
    audit = initialise(model, architecture, f"hf:{tmp_path}", partial=False)
    assert audit.new == audit.left_over == []
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.vision_model(images).pooler_output @ theirs.visual_projection.weight.T
        assert torch.allclose(model.encode_image(images), expected, atol=1e-5)


def test_positions_are_resized_over_the_grid_and_along_the_text(ours, source):
    architecture = changed(vision={"image_size": 48}, text={"context_length": 15})
    model = fresh(architecture)
    audit = initialise(model, architecture, str(ours), partial=False)
    assert audit.resized == ["visual.positional_embedding", "positional_embedding"]
    theirs = source.visual.positional_embedding.detach()
    grid = theirs[1:].T.reshape(1, 16, 4, 4)
    resized = F.interpolate(grid, (6, 6), mode="bicubic", antialias=True, align_corners=False)
    assert torch.equal(model.visual.positional_embedding[0], theirs[0])
    assert torch.allclose(model.visual.positional_embedding[1:].T, resized.reshape(16, 36))
    # Position 7 of 15 is at (7 + 0.5) * 8 / 15 - 0.5 = 3.5 of the 8.
    middle = (source.positional_embedding[3] + source.positional_embedding[4]) / 2
    assert torch.allclose(model.positional_embedding[7], middle, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (changed(vision={"layers": 3}), "does not fit the image tower: visual.transformer.resblo"),
        (
            changed(vision={"layers": 1}),
            "resblocks.1.attn.out_proj.bias (left over) and 9 more; --set",
        ),
        (changed(text={"vocab_size": 30}), "text tower: token_embedding.weight (20x16 instead of"),
        (changed(quick_gelu=True), "was trained with quick_gelu=False, not True"),
        (changed(vision={"head_width": 16}), "with vision_cfg.head_width=8, not 16"),
    ],
)
def test_weights_that_do_not_fit_are_refused(ours, architecture, message):
    model = fresh(architecture)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^model\.init=") as caught:
        initialise(model, architecture, str(ours), partial=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_with_partial_a_tower_of_another_size_starts_at_random(ours, source):
    architecture = changed(text={"vocab_size": 30})
    model = fresh(architecture)
    drawn = model.token_embedding.weight.clone()
    audit = initialise(model, architecture, str(ours), partial=True)
    assert audit.new == ["token_embedding.weight"]
    assert audit.left_over == ["token_embedding.weight"]
    assert torch.equal(model.visual.proj, source.visual.proj)
    assert torch.equal(model.token_embedding.weight, drawn)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.pt", "nowhere.pt: no such file or bundled model; forms: openclip:ARCH/TAG, "),
        ("openclip:ViT-B-99/openai", "unknown architecture 'ViT-B-99'; nearest: "),
        ("openclip:ViT-B-32/opena", "'opena' is neither a file nor weights of ViT-B-32: openai, "),
        ("hf:./nowhere/at/all", "hf:./nowhere/at/all"),
    ],
)
def test_sources_that_are_not_there(text, message):
    with pytest.raises(ValueError, match=r"^model\.init=") as caught:
        initialise(fresh(), ARCHITECTURE, text, partial=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_hold_other_things(source, tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pt")
    torch.save({"a": torch.ones(1)}, tmp_path / "foreign.pt")
    source.visual.proj.data[0, 0] = torch.nan
    torch.save(source.state_dict(), tmp_path / "nan.pt")
    for name, message in (
        ("text", "text.pt"),
        ("numbers", "holds neither `student` nor `teacher` weights"),
        ("foreign", "does not fit the image and text tower"),
        ("nan", "values that are not finite: visual.proj"),
    ):
        with pytest.raises(ValueError, match=rf"^model\.init=.*{message}"):
            initialise(fresh(), ARCHITECTURE, str(tmp_path / f"{name}.pt"), partial=True)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_is_openclips_lock(tower):
    model, plain = fresh(kind="cosmos"), open_clip.CustomTextCLIP(**ARCHITECTURE)
    freeze(model, tower)
    getattr(plain, f"lock_{tower}_tower")()
    locked = {
        key.removeprefix("text.") for key, p in plain.named_parameters() if not p.requires_grad
    }
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert frozen == locked


def test_layer_decay_is_timms_and_of_each_tower_by_its_depth():
    import timm
    import timm.optim

    model = fresh(changed(vision={"layers": 3}))
    groups = param_groups(model, 0.5, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    vit = timm.create_model("vit_tiny_patch16_224", depth=3)
    theirs = timm.optim.param_groups_layer_decay(vit, 0.5, layer_decay=0.5)
    known = {id(parameter): name for name, parameter in vit.named_parameters()}
    scales = {known[id(p)]: group["lr_scale"] for group in theirs for p in group["params"]}
    for own, other in (
        ("visual.conv1.weight", "patch_embed.proj.weight"),
        ("visual.class_embedding", "cls_token"),
        ("visual.positional_embedding", "pos_embed"),
        ("visual.transformer.resblocks.0.ln_1.bias", "blocks.0.norm1.bias"),
        ("visual.transformer.resblocks.2.mlp.c_fc.weight", "blocks.2.mlp.fc1.weight"),
        ("visual.ln_post.weight", "norm.weight"),
        ("visual.proj", "head.weight"),
        ("visual.ln_post.bias", "norm.bias"),
    ):
        assert ours[own] == scales[other], own
    assert ours["token_embedding.weight"] == 0.5**3  # below two blocks
    assert ours["transformer.resblocks.1.ln_1.weight"] == 0.5
    assert ours["text_projection"] == ours["logit_scale"] == 1
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays["visual.conv1.weight"] == 0.5
    assert decays["visual.ln_post.weight"] == decays["logit_scale"] == 0


def test_loaded_weights_are_those_that_encode(ours, source):
    model = fresh()
    initialise(model, ARCHITECTURE, str(ours), partial=False)
    images = torch.randn(2, 3, 32, 32)
    loaded = cosmos_core.load_model(ours)
    assert torch.equal(model.eval().encode_image(images), loaded.encode_image(images))
