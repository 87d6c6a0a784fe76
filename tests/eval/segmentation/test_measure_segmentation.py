"""The whole task on a tiny set: what comes out, what is stored, what stops it."""

from dataclasses import replace

import numpy as np
import open_clip
import pytest
from PIL import Image
from support.segmenting import measure

from cosmos_eval.data.label_map_checks import check
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import known_protocols
from cosmos_eval.stats.segmentation import SparseConfusion
from cosmos_eval.tasks.segmentation import TASK
from cosmos_eval.tasks.segmentation.inference import fit_to_model
from cosmos_eval.types import RunOptions, SegmentationProtocol, UsageError

OPENAI_MEAN = tuple(255 * value for value in open_clip.OPENAI_DATASET_MEAN)
OPENAI_STD = tuple(255 * value for value in open_clip.OPENAI_DATASET_STD)
SIZES = {"one": (48, 48), "sub/two": (30, 70), "three": (52, 33)}


@pytest.fixture
def options(tmp_path, write_set) -> RunOptions:
    write_set(tmp_path / "data", SIZES)
    return RunOptions(data_root=str(tmp_path / "data"), batch_size=8)


def test_metrics_are_those_of_the_saved_predictions(encoder, protocol, options, tmp_path):
    folder = tmp_path / "predictions"
    options = replace(options, save_predictions=str(folder))
    check(protocol, options)
    measurement = measure(encoder, protocol, options)
    folder = folder / f"{protocol.dataset}__{protocol.protocol_name}"
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        f"{name}.png" for name in SIZES
    }
    intersection, union = np.zeros(4), np.zeros(4)
    n_right = n_labelled = 0
    for name in SIZES:
        with Image.open(folder / f"{name}.png") as image:
            assert image.mode == "P"
            predicted = np.asarray(image)
        with Image.open(tmp_path / "data/masks" / f"{name}.png") as image:
            label = np.asarray(image)
        valid = label != 255
        n_right += (predicted == label)[valid].sum()
        n_labelled += valid.sum()
        for class_index in range(4):
            is_predicted = (predicted == class_index) & valid
            is_labelled = (label == class_index) & valid
            intersection[class_index] += (is_predicted & is_labelled).sum()
            union[class_index] += (is_predicted | is_labelled).sum()
    iou = intersection / union
    assert measurement.metrics["aAcc"] == pytest.approx(n_right / n_labelled)
    assert measurement.metrics["mIoU"] == pytest.approx(iou.mean())
    assert measurement.metrics["mIoU_animals"] == pytest.approx(iou[1:3].mean())
    assert measurement.per_class["dog"]["IoU"] == pytest.approx(iou[2])


def test_figures_come_back_from_stored_samples(encoder, protocol, options, tmp_path):
    measurement = measure(encoder, protocol, options)
    np.savez(tmp_path / "samples.npz", allow_pickle=False, **measurement.samples)
    with np.load(tmp_path / "samples.npz") as stored:
        assert set(stored) == {*{"name", "classes", "groups", "members"}, *SparseConfusion._fields}
        figures = TASK.figures(stored, options.seed)
    assert {name: getattr(measurement, name) for name in vars(figures)} == vars(figures)
    for name, value in measurement.metrics.items():
        assert measurement.intervals[name].low <= value <= measurement.intervals[name].high
    assert measurement.n_samples == 3
    assert set(measurement.seconds) == {"prompts", "images"}


def test_hashes_tell_what_changed(encoder, protocol, options):
    def changed(other_protocol, other_options=options):
        hashes = measure(encoder, other_protocol, other_options).hashes
        return {name for name in base if hashes[name] != base[name]}

    base = measure(encoder, protocol, options).hashes
    assert all(len(value) == 64 for value in base.values())
    assert changed(protocol, replace(options, workers=0, batch_size=1)) == set()
    assert changed(replace(protocol, scale=50.0)) == {"constants"}
    assert changed(replace(protocol, templates=("{}",))) == {"templates"}
    lawn = (*protocol.queries[:-1], ("lawn",))
    assert changed(replace(protocol, queries=lawn)) == {"queries"}
    assert changed(protocol, replace(options, limit=2)) == {"samples", "content"}
    assert changed(protocol, replace(options, attention="vanilla")) == {"constants"}


def test_a_limit_and_prompts_of_two_classes_are_noted(encoder, protocol, options):
    assert measure(encoder, protocol, options).notes == ()
    queries = (*protocol.queries[:-1], (*protocol.queries[-1], *protocol.queries[1]))
    limited = replace(options, limit=2)
    limit, note = measure(encoder, replace(protocol, queries=queries), limited).notes
    assert limit == "at most 2 images were measured"
    first, last = protocol.class_names[1], protocol.class_names[-1]
    assert note.endswith(f"belongs to {first} and {last}: {first} always wins with it")


def test_progress_counts_images(encoder, protocol, options):
    steps = []
    measure(encoder, protocol, options, steps.append)
    images = [(step.done, step.total) for step in steps if step.phase == "images"]
    assert images == [(1, 3), (2, 3), (3, 3)]


def test_a_group_without_labels_is_left_out(encoder, protocol, options, tmp_path):
    for name, size in SIZES.items():
        Image.new("L", size[::-1], color=0).save(tmp_path / "data/masks" / f"{name}.png")
    background = replace(protocol, prob_thd=0.999, scale=1.0, groups={"animals": ("cat", "dog")})
    measurement = measure(encoder, background, options)
    assert "mIoU_animals" not in measurement.metrics
    assert measurement.per_class["cat"] == {"IoU": None, "Acc": None}
    assert measurement.metrics["mIoU"] == 1.0


def test_a_set_without_any_label_is_refused(encoder, protocol, options, tmp_path):
    for name, size in SIZES.items():
        Image.new("L", size[::-1], color=255).save(tmp_path / "data/masks" / f"{name}.png")
    with pytest.raises(UsageError, match="no pixel of any image has a label"):
        measure(encoder, protocol, options)


def test_an_undecodable_image_stops_the_run_and_is_named(encoder, protocol, options, tmp_path):
    path = tmp_path / "data/images/three.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match=r"three\.png"):
        measure(encoder, protocol, options)


def test_a_model_without_patches_is_refused(protocol, options):
    class Pooled:
        info = type("Info", (), {"spec": "openclip:RN50/random"})

    with pytest.raises(UsageError, match="RN50/random has no patches"):
        measure(Pooled(), protocol, options)


def test_predictions_that_cannot_be_written_stop_the_run(encoder, protocol, options, tmp_path):
    (tmp_path / "file").write_text("")
    options = replace(options, save_predictions=str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot write prediction"):
        measure(encoder, protocol, options)


def test_constants_that_are_not_stated_are_the_models(encoder, protocol):
    fitted = fit_to_model(replace(protocol, mean=None, std=(1.0, 2.0, 3.0)), encoder)
    assert fitted.mean == pytest.approx(OPENAI_MEAN)
    assert fitted == replace(protocol, mean=fitted.mean, std=(1.0, 2.0, 3.0))
    assert fit_to_model(protocol, encoder) == protocol


def test_the_published_and_the_scenes_protocols_state_their_own():
    protocols = [
        protocol
        for protocol in known_protocols().values()
        if isinstance(protocol, SegmentationProtocol)
    ]
    published_protocols = [
        protocol for protocol in protocols if protocol.protocol_name in ("cosmos", "scenes")
    ]
    assert len(published_protocols) == 13
    published = ((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
    assert {(protocol.mean, protocol.std) for protocol in published_protocols} == {published}


def test_hashes_hold_the_values_that_were_used(encoder, protocol, options):
    def constants(mean):
        measured = replace(protocol, mean=mean, std=OPENAI_STD)
        return measure(encoder, measured, options).hashes["constants"]

    assert constants(None) == constants(OPENAI_MEAN)
    assert constants(None) != constants((127.5, 127.5, 127.5))


def test_a_tower_without_patches_is_refused_before_the_prompts(tiny_archs, protocol, options):
    resnet = load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny-resnet']}/random"))
    steps = []
    with pytest.raises(UsageError, match="tower, ModifiedResNet,"):
        measure(resnet, protocol, options, steps.append)
    assert steps == []
