"""Galleries of users' own sets: retrieval and classification, models there and gone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from support.galleries import (
    all_of_class_0,
    gallery,
    measure,
    pixels,
    without_content_hashes,
)
from support.models import make_result, store
from support.rows import write_result

from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import RELEASED, parse_model_spec
from cosmos_eval.reporting.gallery import collect, source
from cosmos_eval.reporting.gallery.records import Gallery, SampleExample
from cosmos_eval.results import store as store_module
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.store import read_result, read_samples
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import RunOptions, UsageError

COLOURS = ("red", "green", "blue")
CAPTIONS = {
    "red": ["a red one", "nothing but red"],
    "green": ["grass"],
    "blue": ["<b>the sea</b>", "blue", "the sky & more"],
}


def write_retrieval(folder: Path, save_colour: Callable[..., Path]) -> Path:
    """Write three images of one colour, and their captions."""
    images, annotations = [], []
    for number, colour in enumerate(COLOURS):
        save_colour(folder / "images" / f"{colour}.png", colour)
        images.append({"id": number, "file_name": f"{colour}.png"})
        for text in CAPTIONS[colour]:
            annotations.append({"id": len(annotations), "image_id": number, "caption": text})
    content = {"images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(content))
    description = folder / "colours.yaml"
    description.write_text("kind: retrieval\nimages: images\nannotations: captions.json\n")
    return description


def write_classes(folder: Path, save_colour: Callable[..., Path]) -> Path:
    """Write three classes of three images of one colour."""
    for colour in COLOURS:
        for number in range(3):
            save_colour(folder / "classes" / f"class_{colour}" / f"{number}.png", colour)
    description = folder / "shades.yaml"
    description.write_text("kind: cls\nfolder: classes\ntemplates: ['a {}']\n")
    return description


class Measured(NamedTuple):
    """Two data sets, the results of a model on them, and the gallery of both results."""

    # YAML files of the data sets.
    retrieval: Path
    classes: Path
    # JSON files of the results.
    retrieval_result: Path
    classes_result: Path
    gallery: Gallery

    @property
    def examples_of_classes(self) -> list[SampleExample]:
        return [example for example in self.gallery.samples if example.dataset == "shades"]

    def examples_of_direction(self, direction: str) -> list[SampleExample]:
        return [example for example in self.gallery.samples if example.direction == direction]


@pytest.fixture(scope="module")
def measured_once(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_archs: dict[str, str],
    save_colour: Callable[..., Path],
) -> Measured:
    """Measure once for all tests that change neither data nor results."""
    folder = tmp_path_factory.mktemp("measured")
    retrieval = write_retrieval(folder, save_colour)
    classes = write_classes(folder, save_colour)
    model = f"openclip:{tiny_archs['tiny']}/random"
    paths = measure(folder / "results", model, retrieval, classes)
    (classes_result,) = [path for path in paths if "shades" in path.name]
    (retrieval_result,) = [path for path in paths if path != classes_result]
    return Measured(
        retrieval, classes, retrieval_result, classes_result, gallery(paths, retrieval, classes)
    )


@pytest.fixture
def retrieval(tmp_path: Path, save_colour) -> Path:
    return write_retrieval(tmp_path, save_colour)


@pytest.fixture
def classes(tmp_path: Path, save_colour) -> Path:
    return write_classes(tmp_path, save_colour)


def colour_of(picture) -> str:
    """Return the colour that most of a picture has."""
    return COLOURS[int(pixels(picture, "RGB").mean((0, 1)).argmax())]


def scores_of_all_pairs(model: str, folder: Path) -> np.ndarray:
    """Return the scores of all captions (6) with all images (3), in the order of the files."""
    from PIL import Image

    encoder = load_encoder(parse_model_spec(model))
    images = [encoder.transform(Image.open(folder / f"{colour}.png")) for colour in COLOURS]
    texts = [text for colour in COLOURS for text in CAPTIONS[colour]]
    features = encoder.encode_image(torch.stack(images))
    return (encoder.encode_text(encoder.tokenize(texts)) @ features.T).numpy()


def test_retrieved_images_and_captions_are_those_of_the_models_scores(measured_once, model) -> None:
    examples = measured_once.gallery.retrieval
    scores = scores_of_all_pairs(model, measured_once.retrieval.with_name("images"))
    texts = [text for colour in COLOURS for text in CAPTIONS[colour]]
    image_of_text = np.array([0, 0, 1, 2, 2, 2])
    label = f"{model} (random weights)"
    assert measured_once.gallery.notes == ()
    assert {example.direction for example in examples} == {"image_to_text", "text_to_image"}
    assert len(examples) >= 6
    for example in examples:
        assert (example.model, example.dataset, example.protocol) == (label, "colours", "user")
        if example.direction == "image_to_text":
            image = COLOURS.index(colour_of(example.query))
            order = np.argsort(-scores[:, image])
            assert list(example.retrieved) == [texts[text] for text in order[:3]]
            assert list(example.right) == [image_of_text[text] == image for text in order[:3]]
            best_right_text = next(text for text in order if image_of_text[text] == image)
            assert example.expected == texts[best_right_text]
            assert example.rank == 1 + list(order).index(best_right_text)
        else:
            text = texts.index(example.query)
            order = np.argsort(-scores[text])
            retrieved_colours = [colour_of(picture) for picture in example.retrieved]
            assert retrieved_colours == [COLOURS[image] for image in order]
            assert colour_of(example.expected) == COLOURS[image_of_text[text]]
            assert example.right[example.rank - 1]


def test_pictures_have_the_names_of_their_files(measured_once) -> None:
    examples = measured_once.gallery
    image_queries = [
        example.query for example in examples.retrieval if example.direction == "image_to_text"
    ]
    assert image_queries
    for picture in image_queries:
        assert picture.file == f"{colour_of(picture)}.png"
    assert {example.image.file for example in examples.samples if example.metric == "acc1"} == {
        f"class_{colour}/{number}.png" for colour in COLOURS for number in range(3)
    }
    for example in examples.samples:
        folder = "class_" if example.metric == "acc1" else ""
        assert example.image.file.startswith(f"{folder}{colour_of(example.image)}")
    assert all(example.image.file == example.name for example in examples.attention)


def test_the_metric_is_the_fraction_of_shown_samples_that_are_right(measured_once) -> None:
    """Both sets are so small that all of their samples are shown."""
    n_captions = sum(map(len, CAPTIONS.values()))
    for path, metric, n_samples in (
        (measured_once.retrieval_result, "image_to_text_R@1", len(CAPTIONS)),
        (measured_once.retrieval_result, "text_to_image_R@1", n_captions),
        (measured_once.classes_result, "acc1", 9),
    ):
        result = read_result(path)
        is_right = [
            outcome.right
            for example in measured_once.gallery.samples
            if (example.dataset, example.metric) == (result.dataset, metric)
            for outcome in example.outcomes.values()
        ]
        assert len(is_right) == n_samples
        assert np.mean(is_right) == pytest.approx(result.metrics[metric])
    assert len(measured_once.gallery.samples) == len(CAPTIONS) + n_captions + 9


def test_attention_maps_are_drawn_for_captions(measured_once, model) -> None:
    examples = measured_once.gallery.attention
    assert [example.name for example in examples] == ["blue.png", "red.png", "green.png"]
    assert [example.caption for example in examples] == [
        CAPTIONS[colour][0] for colour in ("blue", "red", "green")
    ]
    label = f"{model} (random weights)"
    for example in examples:
        assert dict(example.kinds) == {label: "text-to-patch similarity"}
        assert example.words == {}
        assert pixels(example.maps[label]).shape == (*pixels(example.image).shape[:2], 4)


def test_without_the_model_only_stored_samples_are_shown(
    retrieval, classes, model, checkpoint, tmp_path
) -> None:
    """Queries, ranks and wrong images need no model. What needs it is noted in one line."""
    spec = model.replace("random", str(checkpoint))
    data = (retrieval, classes)
    paths = measure(tmp_path / "results", spec, *data)
    with_model = gallery(paths, *data)
    checkpoint.rename(tmp_path / "elsewhere")
    without_model = gallery(paths, *data)
    assert len(with_model.attention) == 3
    assert without_model.attention == ()
    assert with_model.samples != ()
    assert without_model.samples == with_model.samples
    assert with_model.retrieval
    for example, expected in zip(without_model.retrieval, with_model.retrieval, strict=True):
        assert example.rank == expected.rank
        assert example.query == expected.query
        assert list(example.retrieved) == []
        assert list(example.right) == []
    missing = "no lists of what was found on colours (user), no attention maps on colours"
    (note,) = without_model.notes
    assert note.startswith(f"{spec}: {missing}: ")
    assert "nearest" not in note


def test_a_model_whose_weights_have_changed_is_not_used(
    retrieval, model, checkpoint, tmp_path
) -> None:
    spec = model.replace("random", str(checkpoint))
    paths = measure(tmp_path / "results", spec, retrieval)
    state = safetensors.torch.load_file(checkpoint)
    safetensors.torch.save_file({key: value * 1.01 for key, value in state.items()}, checkpoint)
    examples = gallery(paths, retrieval)
    (note,) = examples.notes
    assert note.endswith("its weights are not those that were measured any more")
    assert {tuple(example.retrieved) for example in examples.retrieval} == {()}


def test_models_with_the_same_note_share_one_line(tmp_path, monkeypatch) -> None:
    """The weights of ten released models are not on this machine."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = Path(__file__).parents[2] / "parity" / "voc"
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    samples = all_of_class_0(names, find_protocol("voc20"))
    row, _ = make_result(
        "seg", samples=samples, dataset="voc20", protocol="cosmos", hashes={"content": ""}
    )
    paths = []
    for number, name in enumerate(RELEASED):
        model = {**row.model, "spec": f"cosmos:{name}", "weights_sha256": f"{number:064}"}
        paths.append(write_result(tmp_path / "results", replace(row, model=model), samples))
    first_three = ", ".join(sorted(f"cosmos:{name}" for name in RELEASED)[:3])
    assert gallery(paths, data_root=str(root)).notes == (
        f"{first_three} and 7 more: no label maps on voc20 (cosmos), no attention maps on voc20: "
        "its weights are not on this machine; `cosmos-eval run --save-predictions DIR` keeps label "
        "maps for --predictions DIR",
    )


def test_classified_images_have_their_class_and_the_predicted_one(measured_once, model) -> None:
    samples = read_samples(measured_once.classes_result)
    examples = measured_once.examples_of_classes
    assert len(examples) == len(samples["labels"])
    outcomes = [example.outcomes[f"{model} (random weights)"] for example in examples]
    n_right = int((samples["top5"][:, 0] == samples["labels"]).sum())
    assert sum(outcome.right for outcome in outcomes) == n_right
    for example, outcome in zip(examples, outcomes, strict=True):
        assert example.text == example.group == f"class {colour_of(example.image)}"
        assert (outcome.answer == example.group) == outcome.right
        assert outcome.taken_for == ("" if outcome.right else outcome.answer)
        assert outcome.answer in ("class blue", "class green", "class red")


def test_captions_have_the_ranks_of_their_images(measured_once) -> None:
    ranks = read_samples(measured_once.retrieval_result)["text_to_image_rank"].tolist()
    answers = []
    for example in measured_once.examples_of_direction("text to image"):
        (outcome,) = example.outcomes.values()
        assert example.text in CAPTIONS[colour_of(example.image)]
        assert example.words == len(example.text.split())
        assert (outcome.answer == "rank 1") == outcome.right
        answers.append(outcome.answer)
    assert sorted(answers) == sorted(f"rank {rank}" for rank in ranks)


def test_images_have_the_ranks_of_their_captions(measured_once) -> None:
    ranks = read_samples(measured_once.retrieval_result)["image_to_text_rank"].tolist()
    answers = {}
    for example in measured_once.examples_of_direction("image to text"):
        (outcome,) = example.outcomes.values()
        assert example.text == CAPTIONS[colour_of(example.image)][0]
        assert example.words is None
        assert (outcome.answer == "rank 1") == outcome.right
        answers[colour_of(example.image)] = outcome.answer
    assert answers == {colour: f"rank {rank}" for colour, rank in zip(COLOURS, ranks, strict=True)}


def test_data_that_changed_since_the_measurement_are_not_shown(
    retrieval, classes, model, tmp_path
) -> None:
    """One set has another caption, and the other one has an image in another class."""
    data = (retrieval, classes)
    paths = measure(tmp_path / "results", model, *data)
    captions = json.loads((tmp_path / "captions.json").read_text())
    captions["annotations"][0]["caption"] = "another one"
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    red_image = tmp_path / "classes" / "class_red" / "0.png"
    red_image.rename(tmp_path / "classes" / "class_blue" / "9.png")
    examples = gallery(paths, *data)
    assert examples.retrieval == ()
    assert examples.samples == ()
    assert examples.attention == ()
    assert examples.notes == tuple(
        f"{name} (user): no pictures of {model} (random weights): measured on other images, "
        "labels, captions or classes than are there now"
        for name in ("colours", "shades")
    )


def test_other_images_of_the_same_names_are_not_shown(
    retrieval, classes, model, save_colour, tmp_path
) -> None:
    data = (retrieval, classes)
    paths = measure(tmp_path / "results", model, *data)
    assert gallery(paths, *data).notes == ()
    save_colour(tmp_path / "images" / "red.png", "green")
    save_colour(tmp_path / "classes" / "class_red" / "0.png", "green")
    examples = gallery(paths, *data)
    assert (examples.retrieval, examples.samples, examples.attention) == ((), (), ())
    assert examples.notes == tuple(
        f"{name} (user): no pictures of {model} (random weights): measured on other images, "
        "labels, captions or classes than are there now"
        for name in ("colours", "shades")
    )


def test_a_missing_image_hides_the_set_and_a_broken_one_only_its_examples(
    retrieval, classes, model, tmp_path
) -> None:
    """Results of older versions have no hash of the files."""
    data = (retrieval, classes)
    paths = measure(tmp_path / "results", model, *data)
    paths = without_content_hashes(paths, tmp_path / "older")
    of_undamaged_data = gallery(paths, *data)
    (tmp_path / "images" / "red.png").unlink()
    broken_class = next(example.group for example in of_undamaged_data.samples if example.group)
    for number in range(3):
        broken_image = tmp_path / "classes" / broken_class.replace(" ", "_") / f"{number}.png"
        broken_image.write_bytes(b"no image")
    examples = gallery(paths, *data)
    assert examples.retrieval == ()
    assert 0 < len(examples.samples) < len(of_undamaged_data.samples)
    assert all(example.group != broken_class for example in examples.samples)
    missing, *undecoded = examples.notes
    assert missing.startswith("colours (user): no pictures: 1 of 3 images missing, first: ")
    assert undecoded
    assert all(note.startswith("cannot decode image ") for note in undecoded)


def test_a_set_without_its_description_is_noted(measured_once) -> None:
    assert gallery([measured_once.retrieval_result]) == Gallery(
        notes=("colours: no pictures: name the YAML file that describes it with --dataset FILE",)
    )


def test_two_sets_may_have_the_same_name(retrieval, classes, model, tmp_path) -> None:
    """A user's captions and classes of the same images may well be called the same."""
    captions, image_classes = tmp_path / "captioned/mine.yaml", tmp_path / "classified/mine.yaml"
    captions.parent.mkdir()
    captions.write_text("kind: retrieval\nimages: ../images\nannotations: ../captions.json\n")
    image_classes.parent.mkdir()
    image_classes.write_text("kind: cls\nfolder: ../classes\ntemplates: ['a {}']\n")
    paths = [
        *measure(tmp_path / "results0", model, captions),
        *measure(tmp_path / "results1", model, image_classes),
    ]
    examples = gallery(paths, captions, image_classes)
    assert examples.notes == ()
    datasets = {example.dataset for example in (*examples.retrieval, *examples.samples)}
    assert datasets == {"mine"}
    assert examples.retrieval
    assert examples.samples


def test_a_description_without_a_result_is_refused(measured_once):
    message = "no result was measured on your data set shades: leave its file out"
    with pytest.raises(UsageError, match=message):
        gallery([measured_once.retrieval_result], measured_once.retrieval, measured_once.classes)


def test_samples_are_unpacked_only_if_their_data_are_there(
    measured_once, tmp_path, monkeypatch
) -> None:
    paths = [store(tmp_path, "cls", dataset="food101", protocol="clip-benchmark")]
    paths += [measured_once.classes_result, measured_once.retrieval_result]
    results = read_checked(paths)
    unpacked_paths = []

    def samples_of(path, stored):
        unpacked_paths.append(path)
        return store_module.samples_of(path, stored)

    monkeypatch.setattr(source, "samples_of", samples_of)
    datasets = [str(measured_once.classes)]
    options = RunOptions(device="cpu", workers=0)
    assert collect(results, options, datasets=datasets).samples
    assert unpacked_paths == [measured_once.classes_result]


def test_a_result_without_samples_has_no_pictures(measured_once, tmp_path) -> None:
    path = shutil.copy(measured_once.classes_result, tmp_path)
    (note,) = gallery([Path(path)], measured_once.classes).notes
    assert f": no pictures: {path}: its samples " in note
    assert note.endswith("cannot be read: no such file")


def test_known_sets_without_a_data_root_are_noted(tmp_path) -> None:
    paths = [
        store(tmp_path, "retrieval", dataset="flickr30k-karpathy", protocol="karpathy"),
        store(tmp_path, "cls", dataset="food101", protocol="clip-benchmark"),
        store(tmp_path, "seg", dataset="voc20", protocol="cosmos"),
        store(tmp_path, "select", dataset="winoground", protocol="winoground"),
    ]
    examples = gallery(paths)
    notes = examples.notes
    assert examples == Gallery(notes=notes)
    assert len(notes) == 3  # for choices between captions (winoground), nothing is ever shown
    for note, name in zip(notes, ("flickr30k-karpathy", "food101", "voc20"), strict=True):
        assert note.startswith(f"{name} (")
        assert "--data-root" in note
        assert note.endswith(f"(see `cosmos-eval data doctor {name}`)")
    assert all("\n" not in note for note in notes)


def test_a_result_with_replaced_samples_is_not_shown(tmp_path) -> None:
    path = store(tmp_path, "cls", dataset="food101", protocol="clip-benchmark")
    archive = path.with_name(read_result(path).samples)
    archive.write_bytes(b"others")
    # The caller of the gallery has noted already that the result is not what was measured.
    assert gallery([path]) == Gallery()


def test_torch_is_not_imported_unless_a_model_is_loaded(measured_once) -> None:
    """This also lets a gallery of many results start quickly."""
    path, classes = measured_once.classes_result, measured_once.classes
    code = (
        "import sys; from pathlib import Path; from cosmos_eval.reporting.gallery import collect\n"
        "from cosmos_eval.results.checked import read_checked\n"
        "from cosmos_eval.types import RunOptions\n"
        "results = read_checked([Path(sys.argv[1])])\n"
        "examples = collect(results, RunOptions(), datasets=[sys.argv[2]])\n"
        "assert examples.samples, examples.notes\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(classes)], check=True)


def test_a_gallery_does_not_depend_on_folders_and_order(measured_once, tmp_path) -> None:
    retrieval_result, classes_result = measured_once.retrieval_result, measured_once.classes_result
    moved = tmp_path / "moved"
    shutil.copytree(classes_result.parent, moved)
    paths = [moved / classes_result.name, moved / retrieval_result.name]
    assert gallery(paths, measured_once.classes, measured_once.retrieval) == measured_once.gallery


def test_results_with_and_without_a_limit_each_show_their_samples(
    retrieval, model, tmp_path
) -> None:
    """Of each result, only as many samples of the data set are opened as were measured."""
    folder = tmp_path / "results"
    measure(folder, model, retrieval, limit=2)
    paths = measure(folder, model, retrieval)
    examples = gallery(paths, retrieval)
    assert examples.notes == ()
    labels = {example.model for example in examples.retrieval}
    assert labels == {f"{model} (random weights)", f"{model} (random weights, first 2 only)"}
    limited_examples = [
        example
        for example in examples.retrieval
        if "first 2" in example.model and example.direction == "text_to_image"
    ]
    queries = {example.query for example in limited_examples}
    assert queries == {*CAPTIONS["red"], *CAPTIONS["green"]}
    assert all(len(example.retrieved) == 2 for example in limited_examples)
    models_with_maps = {tuple(example.maps) for example in examples.attention}
    assert models_with_maps == {(f"{model} (random weights)",)}
