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


def measure(encoder, protocol, options=OPTIONS) -> Measurement:
    check(protocol, options)
    return TASK.measure_one(encoder, protocol, options)


def plain_maps(encoder, image, protocol, kind) -> np.ndarray:
    """Return the map of every class, (classes, h, w), computed name by name."""
    pixels = whole_image(encoder, image)[None]
    map_of_name = {}
    for name in [name for names in protocol.queries for name in names]:
        prompts = [template.replace("{}", name) for template in protocol.templates]
        tokens = encoder.tokenize(prompts)
        map_of_name[name] = plain_map(encoder, pixels, tokens, kind, protocol.attention)
    if kind in ("log ratio to the mean over texts", "values of cross-attention"):
        mean = torch.stack([*map_of_name.values()]).mean(dim=0)
        sign = -1 if "ratio" in kind else 1
        map_of_name = {name: sign * (values - mean) for name, values in map_of_name.items()}
    maps = []
    for names in protocol.queries:
        mean = torch.stack([map_of_name[name] for name in names]).mean(dim=0).double()
        if kind != "cross-attention":
            scale = 1 if "ratio" in kind else protocol.scale
            mean = (scale * mean).exp() / (scale * mean).exp().sum()
        maps.append(mean.numpy())
    return np.stack(maps)


def plain_map(encoder, pixels, tokens, kind, form) -> torch.Tensor:
    """Return the map (h, w) of one name, not compared with other names yet.

    Args:
        pixels: The image (1, 3, H, W).
        tokens: The tokens of the name in each template.
        kind: The kind of the map, a value of `MAPS`.
        form: The form of attention for the similarity of texts and patches.
    """

    def cross_attention(query: torch.Tensor) -> torch.Tensor:
        """Return the weights (heads, h, w) of a text query."""
        return encoder.patch_attention(pixels, query[None])[0, :, 0]

    if kind in ("values of cross-attention", "text-to-patch similarity"):
        feature = encoder.encode_text(tokens).mean(dim=0)
        form = "crossmodal" if kind == "values of cross-attention" else form
        return encoder.encode_patches(pixels, form)[0] @ (feature / feature.norm())
    weights = cross_attention(encoder.text_queries(tokens).mean(dim=0))
    if kind == "cross-attention":
        return weights.mean(dim=0)
    if kind == "log ratio to the mean over texts":
        return weights.log().mean(dim=0)
    (empty_query,) = encoder.text_queries(encoder.tokenize([""]))
    return (cross_attention(empty_query).log() - weights.log()).mean(dim=0)


@pytest.mark.parametrize("kind", MAPS.values())
def test_scores_equal_a_plain_implementation(kind, cosmos, protocol, write_set, tmp_path):
    rng = np.random.default_rng(1)
    labels = {name: rng.integers(0, 4, size) for name, size in SMALL_SIZES.items()}
    for label in labels.values():
        label[rng.random(label.shape) < 0.1] = 255
    write_set(**labels)
    protocol = replace(protocol, map=kind)
    measurement = measure(cosmos, protocol)
    assert measurement.settings["map"] == kind
    samples, row = measurement.samples, 0
    for number, (name, label) in enumerate(labels.items()):
        maps = plain_maps(cosmos, Image.open(tmp_path / f"data/images/{name}.png"), protocol, kind)
        # Enlarge label and maps to pixels so small that every patch is a number of pixels.
        fine_label = label.repeat(maps.shape[1], 0).repeat(maps.shape[2], 1)
        fine_maps = maps.repeat(label.shape[0], 1).repeat(label.shape[1], 2)
        is_labelled = fine_label != 255
        assert samples["labelled_pixels"][number] == (label != 255).sum()
        assert samples["image_pixels"][number] == label.size
        for class_index in (1, 2, 3):  # class 0, the background, is not a thing
            assert (samples["image"][row], samples["class"][row]) == (number, class_index)
            assert samples["thing_pixels"][row] == (label == class_index).sum()
            is_thing = fine_label == class_index
            masses = [values[is_thing].sum() / values[is_labelled].sum() for values in fine_maps]
            assert samples["mass"][row] == pytest.approx(masses[class_index], rel=1e-5)
            masses_of_other_names = [masses[other] for other in {1, 2, 3} - {class_index}]
            expected = np.mean(masses_of_other_names)
            assert samples["other_names"][row] == pytest.approx(expected, rel=1e-5)
            inside = fine_maps[class_index][is_thing]
            outside = fine_maps[class_index][is_labelled & ~is_thing]
            auc = mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside))
            assert samples["auc"][row] == pytest.approx(auc, abs=1e-4)
            row += 1
    assert row == len(samples["image"])
    assert measurement.n_samples == 3
    figures = TASK.figures(samples, 0)
    assert figures.metrics == measurement.metrics
    assert figures.intervals == measurement.intervals
    for name in ("attention_mass", "AUC", "pointing_game", "mass_over_area_medium"):
        interval = measurement.intervals[name]
        assert interval.low <= measurement.metrics[name] <= interval.high


def test_maps_are_those_of_heatmaps(cosmos, protocol, write_set, tmp_path):
    """A cat fills the left half of the only image: the first 7 of 14 columns of patches."""
    label = np.zeros((224, 224), int)
    label[:, :112] = 1
    write_set(one=label)
    names = (("sky",), ("cat",), ("dog",), ("grass",))
    of_names = replace(protocol, queries=names, templates=("{}",), map="cross-attention")
    measurement = measure(cosmos, of_names)
    image = whole_image(cosmos, Image.open(tmp_path / "data/images/one.png"))[None]
    weights = heatmaps(cosmos, image, ["cat"], kind="cross-attention")[0, 0].mean(dim=0)
    assert measurement.samples["mass"].tolist() == pytest.approx([float(weights[:, :7].sum())])
    assert np.isnan(measurement.samples["other_names"]).all()
    assert "mass_over_other_names" not in measurement.metrics
    assert measurement.per_class["cat"]["area"] == 0.5
    assert measurement.per_class["dog"] == {
        **dict.fromkeys(("attention_mass", "area", "pointing_game", "AUC")),
        "images": 0,
    }


def test_sizes_are_shares_of_the_image(tiny_encoder, protocol, write_set):
    label = np.full((40, 40), 255)
    label[:10, :30] = 1  # 0.1875 of the image, 0.375 of the labelled pixels
    label[10:20, :20] = 2  # 0.125 and 0.25
    label[20:30, :30] = 3
    write_set(one=label)
    metrics = measure(tiny_encoder, protocol).metrics
    assert metrics["area_small"] == pytest.approx(1 / 3)
    assert not {name for name in metrics if name.endswith(("_medium", "_large"))}
    metrics = measure(tiny_encoder, replace(protocol, small=0.15, large=0.1875)).metrics
    assert metrics["area_large"] == pytest.approx(0.375)
    assert metrics["area_small"] == pytest.approx(0.25)


def test_an_image_of_one_class_is_left_out_with_a_note(tiny_encoder, protocol, write_set):
    thing_and_background, thing_only = np.ones((20, 20), int), np.ones((20, 20), int)
    thing_and_background[:10] = 0
    thing_only[:10] = 255
    background_only = np.zeros((20, 20), int)
    write_set(a=thing_only, b=thing_and_background, c=background_only)
    measurement = measure(tiny_encoder, protocol)
    assert measurement.samples["image"].tolist() == [1]
    assert measurement.n_samples == 3
    assert measurement.notes == (
        "pets: left out are 1 of 3 images in which one class fills all labelled pixels",
    )
    with pytest.raises(UsageError, match="pets: no image has a thing beside something else"):
        measure(tiny_encoder, protocol, replace(OPTIONS, limit=1))


def test_an_image_with_a_rotation_in_exif_is_turned_like_its_label_map(
    cosmos, protocol, write_set, tmp_path
):
    label = np.zeros((32, 64), int)
    label[:, :32] = 1
    write_set(one=label)
    upright = measure(cosmos, protocol)
    path = tmp_path / "data/images/one.png"
    image = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers turn it by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    rotated = measure(cosmos, protocol)
    np.testing.assert_array_equal(rotated.samples["mass"], upright.samples["mass"])


def test_each_model_has_its_own_kind_of_map(cosmos, tiny_encoder, protocol, labelled):
    assert measure(cosmos, protocol).settings["map"] == "values of cross-attention"
    assert measure(tiny_encoder, protocol).settings["map"] == "text-to-patch similarity"
    similarity = replace(protocol, map="text-to-patch similarity")
    of_cosmos, of_clip = measure(cosmos, similarity), measure(tiny_encoder, similarity)
    assert of_cosmos.settings["map"] == of_clip.settings["map"] == "text-to-patch similarity"
    assert of_cosmos.hashes == of_clip.hashes != measure(cosmos, protocol).hashes
    np.testing.assert_array_equal(
        measure(tiny_encoder, protocol).samples["mass"], of_clip.samples["mass"]
    )


def test_ranks_of_similarity_do_not_depend_on_the_scale(tiny_encoder, protocol, labelled):
    flat = measure(tiny_encoder, replace(protocol, scale=40))
    peaked = measure(tiny_encoder, replace(protocol, scale=300))
    for name in ("auc", "hit"):
        np.testing.assert_array_equal(flat.samples[name], peaked.samples[name])
    assert flat.metrics["attention_mass"] != peaked.metrics["attention_mass"]


def test_the_form_of_attention_changes_only_maps_of_similarity(
    cosmos, tiny_encoder, protocol, labelled
):
    vanilla = replace(OPTIONS, attention="vanilla")
    for encoder, differs in ((cosmos, False), (tiny_encoder, True)):
        by_default = measure(encoder, protocol)
        by_vanilla = measure(encoder, protocol, vanilla)
        assert (by_default.metrics != by_vanilla.metrics) is differs
        assert by_default.hashes["constants"] != by_vanilla.hashes["constants"]


def test_maps_that_a_model_cannot_make_are_refused(tiny_encoder, tiny_archs, protocol, labelled):
    for kind in set(MAPS.values()) - {"text-to-patch similarity"}:
        with pytest.raises(UsageError, match=r"random has no cross-attention: choose a COSMOS"):
            measure(tiny_encoder, replace(protocol, map=kind))
    resnet = load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny-resnet']}/random"))
    for kind in (None, "text-to-patch similarity"):
        with pytest.raises(UsageError, match="no patch"):
            measure(resnet, replace(protocol, map=kind))


@pytest.mark.parametrize("bounds", [{"small": 0.3}, {"small": 0.0}, {"large": 1.0}])
def test_bounds_of_sizes_that_contradict_each_other_are_refused(protocol, labelled, bounds):
    with pytest.raises(UsageError, match="pets: small and large must be shares of the image"):
        check(replace(protocol, **bounds), OPTIONS)


def test_a_label_map_of_another_size_is_named(protocol, labelled, tmp_path):
    Image.new("L", (5, 4)).save(tmp_path / "data/masks/i3.png")
    with pytest.raises(UsageError, match=r"i3\.png is 5x4 px, its image 75x67"):
        check(protocol, OPTIONS)


def test_processes_and_batches_change_nothing(cosmos, protocol, labelled, monkeypatch):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    by_one_process = measure(cosmos, protocol)

    def measure_in_group(distributed) -> Measurement:
        return measure(cosmos, protocol, replace(OPTIONS, distributed=distributed, workers=1))

    for by_three_processes in together(3, measure_in_group):
        for name, values in by_one_process.samples.items():
            np.testing.assert_array_equal(by_three_processes.samples[name], values)
    image_by_image = measure(cosmos, protocol, replace(OPTIONS, batch_size=1))
    for name in ("mass", "auc", "other_names"):
        expected = by_one_process.samples[name]
        np.testing.assert_allclose(image_by_image.samples[name], expected, atol=1e-5)


def test_a_killed_run_resumes_at_its_shard(cosmos, protocol, labelled, monkeypatch, tmp_path):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    options = replace(OPTIONS, unfinished=str(tmp_path / ".partial"))

    def interrupt_after_five_images(step):
        if (step.phase, step.done) == ("images", 5):
            raise KeyboardInterrupt

    def keep_note(step):
        notes.append(step.note)

    data = TASK.open_data(protocol, options)
    with pytest.raises(KeyboardInterrupt):
        next(TASK.measure(cosmos, [protocol], [data], options, interrupt_after_five_images))
    assert len(sorted((tmp_path / ".partial").rglob("*.safetensors"))) == 2
    notes: list[str | None] = []
    data = TASK.open_data(protocol, options)
    measurements = TASK.measure(cosmos, [protocol], [data], options, keep_note)
    resumed = next(measurements)
    assert [note for note in notes if note] == ["resumed: 4 of 7 images were measured already"]
    for name, values in measure(cosmos, protocol).samples.items():
        np.testing.assert_array_equal(resumed.samples[name], values)
    # Asking for the next measurement says that the first one is stored.
    assert next(measurements, None) is None
    assert list(Path(options.unfinished).iterdir()) == []
