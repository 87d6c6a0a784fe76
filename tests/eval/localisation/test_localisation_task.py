"""From images and label maps to figures: a second implementation, whose pixels count, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu
from support.sharing import together

from cosmos_eval.data.label_map_checks import check
from cosmos_eval.models import load_encoder
from cosmos_eval.models.maps import heatmaps, whole_image
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.tasks.localisation import TASK
from cosmos_eval.types import MAPS, Measurement, RunOptions, UsageError

OPTIONS = RunOptions(workers=0)
SMALL_SIZES = {"high": (25, 18), "square": (16, 16), "wide": (12, 29)}  # in the order of the names


def measured(encoder, protocol, options=OPTIONS) -> Measurement:
    check(protocol, options)
    measurement = TASK.measure_one(encoder, protocol, options)
    return measurement


def plain_maps(encoder, image, protocol, kind) -> np.ndarray:
    """The map of every class, name by name and template by template."""
    pixels = whole_image(encoder, image)[None]

    def weights(query):
        return encoder.patch_attention(pixels, query[None])[0, :, 0]

    found = {}
    for name in [name for names in protocol.queries for name in names]:
        tokens = encoder.tokenize([one.replace("{}", name) for one in protocol.templates])
        found[name] = plain_map(encoder, pixels, tokens, kind, weights, protocol.attention)
    if kind in ("log ratio to the mean over texts", "values of cross-attention"):
        mean = torch.stack([*found.values()]).mean(dim=0)
        sign = -1 if "ratio" in kind else 1
        found = {name: sign * (one - mean) for name, one in found.items()}
    maps = []
    for names in protocol.queries:
        mean = torch.stack([found[name] for name in names]).mean(dim=0).double()
        if kind != "cross-attention":
            scale = 1 if "ratio" in kind else protocol.scale
            mean = (scale * mean).exp() / (scale * mean).exp().sum()
        maps.append(mean.numpy())
    return np.stack(maps)


def plain_map(encoder, pixels, tokens, kind, weights, form) -> torch.Tensor:
    """The map (h, w) of the templates of one name, not compared with other names yet."""
    if kind in ("values of cross-attention", "text-to-patch similarity"):
        feature = encoder.encode_text(tokens).mean(dim=0)
        form = "crossmodal" if kind == "values of cross-attention" else form
        return encoder.encode_patches(pixels, form)[0] @ (feature / feature.norm())
    own = weights(encoder.text_queries(tokens).mean(dim=0))
    if kind == "cross-attention":
        return own.mean(dim=0)
    if kind == "log ratio to the mean over texts":
        return own.log().mean(dim=0)
    (empty,) = encoder.text_queries(encoder.tokenize([""]))
    return (weights(empty).log() - own.log()).mean(dim=0)


@pytest.mark.parametrize("kind", MAPS.values())
def test_scores_equal_a_plain_implementation(kind, cosmos, protocol, write_set, tmp_path):
    rng = np.random.default_rng(1)
    labels = {name: rng.integers(0, 4, size) for name, size in SMALL_SIZES.items()}
    for label in labels.values():
        label[rng.random(label.shape) < 0.1] = 255
    write_set(**labels)
    protocol = replace(protocol, map=kind)
    found = measured(cosmos, protocol)
    assert found.settings["map"] == kind
    samples, row = found.samples, 0
    for number, (name, label) in enumerate(labels.items()):
        maps = plain_maps(cosmos, Image.open(tmp_path / f"data/images/{name}.png"), protocol, kind)
        # Pixels so small that every patch is whole pixels.
        fine = label.repeat(maps.shape[1], 0).repeat(maps.shape[2], 1)
        weights = [one.repeat(label.shape[0], 0).repeat(label.shape[1], 1) for one in maps]
        assert samples["labelled_pixels"][number] == (label != 255).sum()
        assert samples["image_pixels"][number] == label.size
        for klass in (1, 2, 3):  # the background is no thing
            assert (samples["image"][row], samples["class"][row]) == (number, klass)
            assert samples["thing_pixels"][row] == (label == klass).sum()
            thing, labelled = fine == klass, fine != 255
            distributed = weights[klass][thing].sum() / weights[klass][labelled].sum()
            assert samples["mass"][row] == pytest.approx(distributed, rel=1e-5)
            others = [
                weights[k][thing].sum() / weights[k][labelled].sum() for k in {1, 2, 3} - {klass}
            ]
            assert samples["other_names"][row] == pytest.approx(np.mean(others), rel=1e-5)
            beats = mannwhitneyu(weights[klass][thing], weights[klass][labelled & ~thing]).statistic
            pairs = thing.sum() * (labelled & ~thing).sum()
            assert samples["auc"][row] == pytest.approx(beats / pairs, abs=1e-4)
            row += 1
    assert row == len(samples["image"])
    assert found.n_samples == 3
    again = TASK.figures(samples, 0)
    assert (again.metrics, again.intervals) == (found.metrics, found.intervals)
    for name in ("attention_mass", "AUC", "pointing_game", "mass_over_area_medium"):
        interval = found.intervals[name]
        assert interval.low <= found.metrics[name] <= interval.high


def test_maps_are_those_that_heatmaps_gives(cosmos, protocol, write_set, tmp_path):
    label = np.zeros((224, 224), int)
    label[:, :112] = 1
    write_set(one=label)
    plain = replace(protocol, queries=(("sky",), ("cat",), ("dog",), ("grass",)), templates=("{}",))
    plain = replace(plain, map="cross-attention")
    found = measured(cosmos, plain)
    image = whole_image(cosmos, Image.open(tmp_path / "data/images/one.png"))[None]
    weights = heatmaps(cosmos, image, ["cat"], kind="cross-attention")[0, 0].mean(dim=0)
    assert found.samples["mass"].tolist() == pytest.approx([float(weights[:, :7].sum())])
    assert np.isnan(found.samples["other_names"]).all()
    assert "mass_over_other_names" not in found.metrics
    assert found.per_class["cat"]["area"] == 0.5
    assert found.per_class["dog"] == {
        **dict.fromkeys(("attention_mass", "area", "pointing_game", "AUC")),
        "images": 0,
    }


def test_sizes_are_shares_of_the_image(tiny_encoder, protocol, write_set):
    label = np.full((40, 40), 255)
    label[:10, :30] = 1  # 0.1875 of the image, 0.375 of the labelled pixels
    label[10:20, :20] = 2  # 0.125 and 0.25
    label[20:30, :30] = 3
    write_set(one=label)
    metrics = measured(tiny_encoder, protocol).metrics
    assert metrics["area_small"] == pytest.approx(1 / 3)
    assert not {name for name in metrics if name.endswith(("_medium", "_large"))}
    metrics = measured(tiny_encoder, replace(protocol, small=0.15, large=0.1875)).metrics
    assert metrics["area_large"] == pytest.approx(0.375)
    assert metrics["area_small"] == pytest.approx(0.25)


def test_an_image_of_one_class_is_left_out_and_told(tiny_encoder, protocol, write_set):
    both, alone = np.ones((20, 20), int), np.ones((20, 20), int)
    both[:10] = 0
    alone[:10] = 255
    nothing = np.zeros((20, 20), int)
    write_set(a=alone, b=both, c=nothing)
    found = measured(tiny_encoder, protocol)
    assert found.samples["image"].tolist() == [1]
    assert found.n_samples == 3
    assert found.notes == (
        "pets: left out are 1 of 3 images in which one class fills all labelled pixels",
    )
    with pytest.raises(UsageError, match="pets: no image has a thing beside something else"):
        measured(tiny_encoder, protocol, replace(OPTIONS, limit=1))


def test_an_image_that_is_turned_is_seen_as_its_label_map(cosmos, protocol, write_set, tmp_path):
    label = np.zeros((32, 64), int)
    label[:, :32] = 1
    write_set(one=label)
    plain = measured(cosmos, protocol)
    path = tmp_path / "data/images/one.png"
    image = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    np.testing.assert_array_equal(measured(cosmos, protocol).samples["mass"], plain.samples["mass"])


def test_each_model_has_its_own_kind_of_map(cosmos, tiny_encoder, protocol, labelled):
    assert measured(cosmos, protocol).settings["map"] == "values of cross-attention"
    assert measured(tiny_encoder, protocol).settings["map"] == "text-to-patch similarity"
    alike = replace(protocol, map="text-to-patch similarity")
    of_cosmos, of_clip = measured(cosmos, alike), measured(tiny_encoder, alike)
    assert of_cosmos.settings["map"] == of_clip.settings["map"] == "text-to-patch similarity"
    assert of_cosmos.hashes == of_clip.hashes != measured(cosmos, protocol).hashes
    np.testing.assert_array_equal(
        measured(tiny_encoder, protocol).samples["mass"], of_clip.samples["mass"]
    )


def test_ranks_of_similarity_do_not_depend_on_the_scale(tiny_encoder, protocol, labelled):
    some, other = (measured(tiny_encoder, replace(protocol, scale=scale)) for scale in (40, 300))
    for name in ("auc", "hit"):
        np.testing.assert_array_equal(some.samples[name], other.samples[name])
    assert some.metrics["attention_mass"] != other.metrics["attention_mass"]


def test_the_form_of_attention_counts_for_similarity_alone(
    cosmos, tiny_encoder, protocol, labelled
):
    vanilla = replace(OPTIONS, attention="vanilla")
    for encoder, differs in ((cosmos, False), (tiny_encoder, True)):
        usual, other = measured(encoder, protocol), measured(encoder, protocol, vanilla)
        assert (usual.metrics != other.metrics) is differs
        assert usual.hashes["constants"] != other.hashes["constants"]


def test_what_a_model_lacks_is_told_in_a_line(tiny_encoder, tiny_archs, protocol, labelled):
    for kind in set(MAPS.values()) - {"text-to-patch similarity"}:
        with pytest.raises(UsageError, match=r"random has no cross-attention: choose a COSMOS"):
            measured(tiny_encoder, replace(protocol, map=kind))
    resnet = load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny-resnet']}/random"))
    for kind in (None, "text-to-patch similarity"):
        with pytest.raises(UsageError, match="no patch"):
            measured(resnet, replace(protocol, map=kind))


@pytest.mark.parametrize("bounds", [{"small": 0.3}, {"small": 0.0}, {"large": 1.0}])
def test_bounds_that_contradict_each_other(protocol, labelled, bounds):
    with pytest.raises(UsageError, match="pets: small and large must be shares of the image"):
        check(replace(protocol, **bounds), OPTIONS)


def test_a_label_map_of_another_size_is_named(protocol, labelled, tmp_path):
    Image.new("L", (5, 4)).save(tmp_path / "data/masks/i3.png")
    with pytest.raises(UsageError, match=r"i3\.png is 5x4 px, its image 75x67"):
        check(protocol, OPTIONS)


def test_processes_and_batches_change_nothing(cosmos, protocol, labelled, monkeypatch):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    alone = measured(cosmos, protocol)

    def act(distributed):
        return measured(cosmos, protocol, replace(OPTIONS, distributed=distributed, workers=1))

    for shared in together(3, act):
        for name, values in alone.samples.items():
            np.testing.assert_array_equal(shared.samples[name], values)
    single = measured(cosmos, protocol, replace(OPTIONS, batch_size=1))
    for name in ("mass", "auc", "other_names"):
        np.testing.assert_allclose(single.samples[name], alone.samples[name], atol=1e-5)


def test_a_killed_run_goes_on_at_its_shard(cosmos, protocol, labelled, monkeypatch, tmp_path):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    options = replace(OPTIONS, unfinished=str(tmp_path / ".partial"))

    def ending(step):
        if (step.phase, step.done) == ("images", 5):
            raise KeyboardInterrupt

    data = TASK.open_data(protocol, options)
    with pytest.raises(KeyboardInterrupt):
        next(TASK.measure(cosmos, [protocol], [data], options, ending))
    assert len(sorted((tmp_path / ".partial").rglob("*.safetensors"))) == 2
    notes = []
    data = TASK.open_data(protocol, options)
    running = TASK.measure(
        cosmos, [protocol], [data], options, lambda step: notes.append(step.note)
    )
    resumed = next(running)
    assert [note for note in notes if note] == ["resumed: 4 of 7 images were measured already"]
    for name, values in measured(cosmos, protocol).samples.items():
        np.testing.assert_array_equal(resumed.samples[name], values)
    assert next(running, None) is None  # the result is stored by now
    assert list(Path(options.unfinished).iterdir()) == []
