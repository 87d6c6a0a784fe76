"""The embedded scenes with bundled models, from measuring to pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.galleries import bytes_of, examples_of, gallery, measure, pixels

from cosmos_eval.embedding.cache import embeddings_folder
from cosmos_eval.reporting.gallery import collect
from cosmos_eval.reporting.gallery.records import Gallery
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.store import result_paths
from cosmos_eval.runner.plan import show_no_progress
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import Progress, RunOptions

SETS = ("scenes-retrieval", "scenes-cls", "scenes-seg")
MODELS = ("scenes-cosmos", "scenes-clip")
LABELS = ["scenes-clip (first 6 only)", "scenes-cosmos (first 6 only)"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("results")
    for model in MODELS:
        measure(folder, model, *SETS, limit=6, cache=str(embeddings_folder()))
    return result_paths(folder)


@pytest.fixture(scope="module")
def progress() -> list[tuple[str, Progress]]:
    """Return the steps that are reported while the gallery is collected."""
    return []


@pytest.fixture(scope="module")
def scenes_gallery(paths: list[Path], progress: list[tuple[str, Progress]]) -> Gallery:
    def note_step(name: str, step: Progress) -> None:
        progress.append((name, step))

    return collect_cached(paths, show_progress=note_step)


def collect_cached(paths: list[Path], **options) -> Gallery:
    """Collect a gallery by the cached embeddings of the measurement."""
    cached = RunOptions(device="cpu", workers=2, cache=str(embeddings_folder()))
    return collect(read_checked(paths), cached, **options)


def test_both_models_have_every_kind_of_example(scenes_gallery: Gallery) -> None:
    assert scenes_gallery.notes == ()
    assert sorted({example.model for example in scenes_gallery.retrieval}) == LABELS
    samples = scenes_gallery.samples
    assert {tuple(sorted(example.outcomes)) for example in samples} == {tuple(LABELS)}
    datasets = {example.dataset for example in samples}
    assert datasets == {"scenes-cls", "scenes-retrieval", "scenes-seg"}
    segmentation = scenes_gallery.segmentation
    assert [sorted(example.predictions) for example in segmentation] == [LABELS] * 3
    assert [sorted(example.maps) for example in scenes_gallery.attention] == [
        ["scenes-clip", "scenes-cosmos"]
    ] * 3


def test_cosmos_has_weights_of_words(scenes_gallery: Gallery) -> None:
    for example in scenes_gallery.attention:
        assert example.kinds["scenes-cosmos"] == "values of cross-attention"
        assert example.kinds["scenes-clip"] == "text-to-patch similarity"
        (words,) = example.words.values()
        spelled = "".join(" " * word.spaced + word.text for word in words).strip()
        assert spelled == example.caption
        assert spelled.startswith("a small ")
        weights = [word.scaled for word in words]
        assert (min(weights), max(weights)) == (0, 1)


def test_the_best_patch_is_where_the_map_is_brightest(scenes_gallery: Gallery) -> None:
    """This shows that the map is not of another image, text or model."""
    import torch

    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.specs import parse_model_spec

    encoder = load_encoder(parse_model_spec("scenes-cosmos"))
    root = Path(str(find_protocol("scenes-retrieval-small").root))
    for example in scenes_gallery.attention:
        image = Image.open(root / "coco/images/test" / example.name)
        batch = encoder.transform(image.convert("RGB"))[None]
        (text,) = encoder.encode_text(encoder.tokenize([example.caption]))
        attention = encoder.encode_patches(batch, "crossmodal")[0] @ text
        row, column = divmod(int(attention.argmax()), attention.shape[1])
        opacity = pixels(example.maps["scenes-cosmos"])[..., 3].astype(int)
        y, x = np.unravel_index(opacity.argmax(), opacity.shape)
        patch_size = opacity.shape[0] / attention.shape[0]
        assert abs(y / patch_size - row - 0.5) <= 1
        assert abs(x / patch_size - column - 0.5) <= 1
        assert isinstance(attention, torch.Tensor)


def test_true_classes_are_drawn_where_the_label_map_has_them(scenes_gallery: Gallery) -> None:
    root = Path(str(find_protocol("scenes-seg").root))
    protocol = find_protocol("scenes-seg")
    for example in scenes_gallery.segmentation:
        label = np.asarray(Image.open(root / "voc/SegmentationClass" / f"{example.name}.png"))
        picture = pixels(example.truth)
        assert picture.shape[:2] == label.shape
        for number in np.unique(label):
            colours = {tuple(rgba) for rgba in picture[label == number].tolist()}
            if number == 255:
                assert {alpha for *_, alpha in colours} == {0}
            else:
                name = protocol.class_names[number]
                (rgba,) = colours
                assert "#{:02x}{:02x}{:02x}".format(*rgba) == example.legend[name]
    legend = scenes_gallery.segmentation[0].legend
    assert len(set(legend.values())) == len(legend)


def test_a_smaller_budget_keeps_fewer_examples(scenes_gallery: Gallery, paths: list[Path]) -> None:
    all_examples = examples_of(scenes_gallery)
    budget = bytes_of(all_examples) * 2 // 3
    smaller_gallery = collect_cached(paths, budget=budget)
    examples = examples_of(smaller_gallery)
    assert 0 < len(examples) < len(all_examples)
    assert bytes_of(examples) <= budget
    assert sorted({example.model for example in smaller_gallery.retrieval}) == LABELS
    (note,) = smaller_gallery.notes
    assert "examples of a kind: no more fit into" in note


@pytest.mark.usefixtures("scenes_gallery")
def test_progress_names_models_and_phases(progress: list[tuple[str, Progress]]) -> None:
    assert {"scenes-clip", "scenes-cosmos", "pictures"} <= {name for name, _ in progress}
    assert {"load", "data sets", "pictures"} <= {step.phase for _, step in progress}
    assert show_no_progress("pictures", progress[0][1]) is None


def test_the_students_weights_show_the_student(tmp_path) -> None:
    paths = measure(tmp_path, "scenes-cosmos", "scenes-seg", weights="student", limit=3)
    examples = gallery(paths)
    assert examples.notes == ()
    assert [list(example.predictions) for example in examples.segmentation] == [
        ["scenes-cosmos (student, first 3 only)"]
    ] * 3
    models_with_maps = [list(example.maps) for example in examples.attention]
    assert models_with_maps == [["scenes-cosmos (student)"]] * 3
