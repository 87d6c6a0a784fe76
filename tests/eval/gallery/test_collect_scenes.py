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
    """What was reported while `found` was collected."""
    return []


@pytest.fixture(scope="module")
def found(paths: list[Path], progress: list[tuple[str, Progress]]) -> Gallery:
    return of(paths, show_progress=lambda what, step: progress.append((what, step)))


def of(paths: list[Path], **options) -> Gallery:
    cached = RunOptions(device="cpu", workers=2, cache=str(embeddings_folder()))
    return collect(paths, cached, **options)


def test_every_kind_is_there_of_both_models(found: Gallery) -> None:
    assert found.notes == ()
    assert sorted({example.model for example in found.retrieval}) == LABELS
    assert {tuple(sorted(example.outcomes)) for example in found.samples} == {tuple(LABELS)}
    assert {e.dataset for e in found.samples} == {"scenes-cls", "scenes-retrieval", "scenes-seg"}
    assert [sorted(example.predictions) for example in found.segmentation] == [LABELS] * 3
    assert [sorted(example.maps) for example in found.attention] == [
        ["scenes-clip", "scenes-cosmos"]
    ] * 3


def test_cosmos_looks_at_words_as_well(found: Gallery) -> None:
    for example in found.attention:
        assert example.kinds["scenes-cosmos"] == "values of cross-attention"
        assert example.kinds["scenes-clip"] == "text-to-patch similarity"
        (words,) = example.words.values()
        spelled = "".join(" " * word.spaced + word.text for word in words).strip()
        assert spelled == example.caption
        assert spelled.startswith("a small ")
        weights = [word.scaled for word in words]
        assert (min(weights), max(weights)) == (0, 1)


def test_the_best_patch_is_where_the_map_is_brightest(found: Gallery) -> None:
    """The map of the text that it shows, not of another image or model."""
    import torch

    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.specs import parse_model_spec

    encoder = load_encoder(parse_model_spec("scenes-cosmos"))
    root = Path(str(find_protocol("scenes-retrieval-small").root))
    for example in found.attention:
        image = Image.open(root / "coco/images/test" / example.name)
        batch = encoder.transform(image.convert("RGB"))[None]
        (text,) = encoder.encode_text(encoder.tokenize([example.caption]))
        attention = encoder.encode_patches(batch, "crossmodal")[0] @ text
        row, column = divmod(int(attention.argmax()), attention.shape[1])
        drawn = pixels(example.maps["scenes-cosmos"])[..., 3].astype(int)
        y, x = np.unravel_index(drawn.argmax(), drawn.shape)
        patch = drawn.shape[0] / attention.shape[0]
        assert abs(y / patch - row - 0.5) <= 1
        assert abs(x / patch - column - 0.5) <= 1
        assert isinstance(attention, torch.Tensor)


def test_true_things_are_where_the_scene_has_them(found: Gallery) -> None:
    root = Path(str(find_protocol("scenes-seg").root))
    protocol = find_protocol("scenes-seg")
    for example in found.segmentation:
        label = np.asarray(Image.open(root / "voc/SegmentationClass" / f"{example.name}.png"))
        drawn = pixels(example.truth)
        assert drawn.shape[:2] == label.shape
        for number in np.unique(label):
            seen = {tuple(colour) for colour in drawn[label == number].tolist()}
            if number == 255:
                assert {colour[3] for colour in seen} == {0}
            else:
                name = protocol.class_names[number]
                (colour,) = seen
                assert "#{:02x}{:02x}{:02x}".format(*colour) == example.legend[name]
    assert len(set(found.segmentation[0].legend.values())) == len(found.segmentation[0].legend)


def test_with_less_room(found: Gallery, paths: list[Path]) -> None:
    examples = examples_of(found)
    budget = bytes_of(examples) * 2 // 3
    less = of(paths, budget=budget)
    kept = examples_of(less)
    assert 0 < len(kept) < len(examples)
    assert bytes_of(kept) <= budget
    assert sorted({example.model for example in less.retrieval}) == LABELS
    assert len(less.notes) == 1
    assert "examples of a kind: no more fit into" in less.notes[0]


@pytest.mark.usefixtures("found")
def test_progress_is_told(progress: list[tuple[str, Progress]]) -> None:
    assert {"scenes-clip", "scenes-cosmos", "pictures"} <= {what for what, _ in progress}
    assert {"load", "data sets", "pictures"} <= {step.phase for _, step in progress}
    assert show_no_progress("pictures", progress[0][1]) is None


def test_the_students_weights_show_the_student(tmp_path) -> None:
    paths = measure(tmp_path, "scenes-cosmos", "scenes-seg", weights="student", limit=3)
    found = gallery(paths)
    assert found.notes == ()
    assert [list(e.predictions) for e in found.segmentation] == [
        ["scenes-cosmos (student, first 3 only)"]
    ] * 3
    assert [list(e.maps) for e in found.attention] == [["scenes-cosmos (student)"]] * 3
