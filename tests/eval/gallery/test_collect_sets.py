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
from support.galleries import all_of_class_0, gallery, measure, pixels
from support.models import make_result, store
from support.rows import write_result

from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import RELEASED, parse_model_spec
from cosmos_eval.reporting.gallery.records import Gallery
from cosmos_eval.results.store import read_result, read_samples
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import UsageError

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
    described = folder / "colours.yaml"
    described.write_text("kind: retrieval\nimages: images\nannotations: captions.json\n")
    return described


def write_classes(folder: Path, save_colour: Callable[..., Path]) -> Path:
    for colour in COLOURS:
        for number in range(3):
            save_colour(folder / "classes" / f"class_{colour}" / f"{number}.png", colour)
    described = folder / "shades.yaml"
    described.write_text("kind: cls\nfolder: classes\ntemplates: ['a {}']\n")
    return described


class Measured(NamedTuple):
    """Both sets, the files of a model's results on them, and their gallery."""

    retrieval: Path
    classes: Path
    of_retrieval: Path
    of_classes: Path
    gallery: Gallery


@pytest.fixture(scope="module")
def measured_once(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_archs: dict[str, str],
    save_colour: Callable[..., Path],
) -> Measured:
    """What is measured for tests that change none of it."""
    folder = tmp_path_factory.mktemp("measured")
    data = write_retrieval(folder, save_colour), write_classes(folder, save_colour)
    paths = measure(folder / "results", f"openclip:{tiny_archs['tiny']}/random", *data)
    of_retrieval, of_classes = sorted(paths, key=lambda path: "shades" in path.name)
    return Measured(*data, of_retrieval, of_classes, gallery(paths, *data))


@pytest.fixture
def retrieval(tmp_path: Path, save_colour) -> Path:
    return write_retrieval(tmp_path, save_colour)


@pytest.fixture
def classes(tmp_path: Path, save_colour) -> Path:
    return write_classes(tmp_path, save_colour)


def colour_of(picture) -> str:
    """The colour that most of a picture has."""
    return COLOURS[int(pixels(picture, "RGB").mean((0, 1)).argmax())]


def brute_force(model: str, folder: Path) -> np.ndarray:
    """Scores of all captions (6) with all images (3), in the order of the files."""
    from PIL import Image

    encoder = load_encoder(parse_model_spec(model))
    images = [encoder.transform(Image.open(folder / f"{colour}.png")) for colour in COLOURS]
    texts = [text for colour in COLOURS for text in CAPTIONS[colour]]
    features = encoder.encode_image(torch.stack(images))
    return (encoder.encode_text(encoder.tokenize(texts)) @ features.T).numpy()


def test_what_was_found_is_what_the_model_says(measured_once, model) -> None:
    found = measured_once.gallery
    scores = brute_force(model, measured_once.retrieval.with_name("images"))
    texts = [text for colour in COLOURS for text in CAPTIONS[colour]]
    owner = np.array([0, 0, 1, 2, 2, 2])
    label = f"{model} (random weights)"
    assert found.notes == ()
    assert {example.direction for example in found.retrieval} == {"image_to_text", "text_to_image"}
    assert len(found.retrieval) >= 6
    for example in found.retrieval:
        assert (example.model, example.dataset, example.protocol) == (label, "colours", "user")
        if example.direction == "image_to_text":
            number = COLOURS.index(colour_of(example.query))
            order = np.argsort(-scores[:, number])
            assert list(example.retrieved) == [texts[n] for n in order[:3]]
            assert list(example.right) == [owner[n] == number for n in order[:3]]
            best = next(n for n in order if owner[n] == number)
            assert example.expected == texts[best]
            assert example.rank == 1 + list(order).index(best)
        else:
            number = texts.index(example.query)
            order = np.argsort(-scores[number])
            assert [colour_of(one) for one in example.retrieved] == [COLOURS[n] for n in order]
            assert colour_of(example.expected) == COLOURS[owner[number]]
            assert example.right[example.rank - 1]


def test_pictures_have_the_names_of_their_files(measured_once) -> None:
    found = measured_once.gallery
    queries = [one for one in found.retrieval if one.direction == "image_to_text"]
    assert queries
    for example in queries:
        assert example.query.file == f"{colour_of(example.query)}.png"
    assert {example.image.file for example in found.samples if example.metric == "acc1"} == {
        f"class_{colour}/{number}.png" for colour in COLOURS for number in range(3)
    }
    for example in found.samples:
        folder = "class_" if example.metric == "acc1" else ""
        assert example.image.file.startswith(f"{folder}{colour_of(example.image)}")
    assert all(example.image.file == example.name for example in found.attention)


def test_the_metric_of_samples_is_the_share_of_right_ones(measured_once) -> None:
    """Both sets are so small that all of their samples are shown."""
    n_captions = sum(map(len, CAPTIONS.values()))
    for path, metric, n_samples in (
        (measured_once.of_retrieval, "image_to_text_R@1", len(CAPTIONS)),
        (measured_once.of_retrieval, "text_to_image_R@1", n_captions),
        (measured_once.of_classes, "acc1", 9),
    ):
        row = read_result(path)
        samples = measured_once.gallery.samples
        shown = [one for one in samples if (one.dataset, one.metric) == (row.dataset, metric)]
        right = [outcome.right for one in shown for outcome in one.outcomes.values()]
        assert len(right) == n_samples
        assert np.mean(right) == pytest.approx(row.metrics[metric])
    assert len(measured_once.gallery.samples) == len(CAPTIONS) + n_captions + 9


def test_captions_light_up_patches(measured_once, model) -> None:
    found = measured_once.gallery
    assert [example.name for example in found.attention] == ["blue.png", "red.png", "green.png"]
    assert [example.caption for example in found.attention] == [
        CAPTIONS[colour][0] for colour in ("blue", "red", "green")
    ]
    label = f"{model} (random weights)"
    for example in found.attention:
        assert dict(example.kinds) == {label: "text-to-patch similarity"}
        assert example.words == {}
        assert pixels(example.maps[label]).shape == (*pixels(example.image).shape[:2], 4)


def test_a_model_that_is_gone(retrieval, classes, model, checkpoint, tmp_path) -> None:
    """Queries, ranks and wrong images need none; the rest is noted in one line."""
    spec = model.replace("random", str(checkpoint))
    data = (retrieval, classes)
    paths = measure(tmp_path / "results", spec, *data)
    whole = gallery(paths, *data)
    checkpoint.rename(tmp_path / "elsewhere")
    found = gallery(paths, *data)
    assert len(whole.attention) == 3
    assert found.attention == ()
    assert found.samples == whole.samples != ()
    assert [e.rank for e in found.retrieval] == [e.rank for e in whole.retrieval]
    assert [e.query for e in found.retrieval] == [e.query for e in whole.retrieval]
    assert {(*e.retrieved, *e.right) for e in found.retrieval} == {()}
    missing = "no lists of what was found on colours (user), no attention maps on colours"
    (note,) = found.notes
    assert note.startswith(f"{spec}: {missing}: ")
    assert "nearest" not in note


def test_weights_that_have_changed(retrieval, model, checkpoint, tmp_path) -> None:
    spec = model.replace("random", str(checkpoint))
    paths = measure(tmp_path / "results", spec, retrieval)
    state = safetensors.torch.load_file(checkpoint)
    safetensors.torch.save_file({key: value * 1.01 for key, value in state.items()}, checkpoint)
    found = gallery(paths, retrieval)
    (note,) = found.notes
    assert note.endswith("its weights are not those that were measured any more")
    assert {tuple(example.retrieved) for example in found.retrieval} == {()}


def test_models_of_which_the_same_is_to_be_said(tmp_path, monkeypatch) -> None:
    """Ten released models that nobody has fetched: one line, not ten."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = Path(__file__).parents[2] / "parity" / "voc"
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    samples = all_of_class_0(names, find_protocol("voc20"))
    row, _ = make_result("seg", samples=samples, dataset="voc20", protocol="cosmos")
    paths = []
    for place, name in enumerate(RELEASED):
        model = {**row.model, "spec": f"cosmos:{name}", "weights_sha256": f"{place:064}"}
        paths.append(write_result(tmp_path / "results", replace(row, model=model), samples))
    found = gallery(paths, data_root=str(root))
    some = ", ".join(sorted(f"cosmos:{name}" for name in RELEASED)[:3])
    assert found.notes == (
        f"{some} and 7 more: no label maps on voc20 (cosmos), no attention maps on voc20: its "
        "weights are not on this machine; `cosmos-eval run --save-predictions DIR` keeps label "
        "maps for --predictions DIR",
    )


def test_images_with_their_classes_and_what_was_predicted(measured_once, model) -> None:
    samples = read_samples(measured_once.of_classes)
    found = [one for one in measured_once.gallery.samples if one.dataset == "shades"]
    assert len(found) == len(samples["labels"])
    outcomes = [example.outcomes[f"{model} (random weights)"] for example in found]
    right = int((samples["top5"][:, 0] == samples["labels"]).sum())
    assert sum(outcome.right for outcome in outcomes) == right
    for example, outcome in zip(found, outcomes, strict=True):
        assert example.text == example.group == f"class {colour_of(example.image)}"
        assert (outcome.answer == example.group) == outcome.right
        assert outcome.taken_for == ("" if outcome.right else outcome.answer)
        assert outcome.answer in ("class blue", "class green", "class red")


def test_captions_with_their_ranks(measured_once) -> None:
    ranks = read_samples(measured_once.of_retrieval)["text_to_image_rank"].tolist()
    found = [one for one in measured_once.gallery.samples if one.direction == "text to image"]
    for example in found:
        (outcome,) = example.outcomes.values()
        assert example.text in CAPTIONS[colour_of(example.image)]
        assert example.words == len(example.text.split())
        assert (outcome.answer == "rank 1") == outcome.right
    listed = sorted(next(iter(one.outcomes.values())).answer for one in found)
    assert listed == sorted(f"rank {rank}" for rank in ranks)


def test_images_with_the_ranks_of_their_captions(measured_once) -> None:
    ranks = read_samples(measured_once.of_retrieval)["image_to_text_rank"].tolist()
    found = [one for one in measured_once.gallery.samples if one.direction == "image to text"]
    answers = {}
    for example in found:
        (outcome,) = example.outcomes.values()
        assert example.text == CAPTIONS[colour_of(example.image)][0]
        assert example.words is None
        assert (outcome.answer == "rank 1") == outcome.right
        answers[colour_of(example.image)] = outcome.answer
    assert answers == {colour: f"rank {rank}" for colour, rank in zip(COLOURS, ranks, strict=True)}


def test_data_of_another_kind_are_never_shown(retrieval, classes, model, tmp_path) -> None:
    """A caption less, and an image moved to another class."""
    data = (retrieval, classes)
    paths = measure(tmp_path / "results", model, *data)
    captions = json.loads((tmp_path / "captions.json").read_text())
    captions["annotations"][0]["caption"] = "another one"
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    moved = tmp_path / "classes" / "class_red"
    (moved / "0.png").rename(tmp_path / "classes" / "class_blue" / "9.png")
    found = gallery(paths, *data)
    assert found.retrieval == found.samples == found.attention == ()
    assert found.notes == tuple(
        f"{name} (user): no pictures of {model} (random weights): measured on other images, "
        "captions or classes than are there now"
        for name in ("colours", "shades")
    )


def test_an_image_that_is_missing_or_broken(retrieval, classes, model, tmp_path) -> None:
    """The set is noted where files are missing; a broken one costs only what shows it."""
    data = (retrieval, classes)
    paths = measure(tmp_path / "results", model, *data)
    whole = gallery(paths, *data)
    (tmp_path / "images" / "red.png").unlink()
    label = next(example.group for example in whole.samples if example.group)
    for number in range(3):
        broken = tmp_path / "classes" / label.replace(" ", "_") / f"{number}.png"
        broken.write_bytes(b"no image")
    found = gallery(paths, *data)
    assert found.retrieval == ()
    assert 0 < len(found.samples) < len(whole.samples)
    assert all(example.group != label for example in found.samples)
    missing, *undecoded = found.notes
    assert missing.startswith("colours (user): no pictures: 1 of 3 images missing, first: ")
    assert undecoded
    assert all(note.startswith("cannot decode image ") for note in undecoded)


def test_a_set_that_nobody_describes(measured_once) -> None:
    found = gallery([measured_once.of_retrieval])
    assert found == Gallery(
        notes=("colours: no pictures: name the YAML file that describes it with --dataset FILE",)
    )


def test_two_sets_of_one_name(retrieval, classes, model, tmp_path) -> None:
    """A user's captions and classes of the same images may well be called the same."""
    renamed = [tmp_path / "captioned" / "mine.yaml", tmp_path / "classified" / "mine.yaml"]
    for path in renamed:
        path.parent.mkdir()
    renamed[0].write_text("kind: retrieval\nimages: ../images\nannotations: ../captions.json\n")
    renamed[1].write_text("kind: cls\nfolder: ../classes\ntemplates: ['a {}']\n")
    paths = []
    for number, described in enumerate(renamed):
        paths += measure(tmp_path / f"results{number}", model, described)
    found = gallery(paths, *renamed)
    assert found.notes == ()
    assert {e.dataset for e in (*found.retrieval, *found.samples)} == {"mine"}
    assert found.retrieval
    assert found.samples


def test_a_description_of_nothing_measured(measured_once):
    message = "no result was measured on your data set shades: leave its file out"
    with pytest.raises(UsageError, match=message):
        gallery([measured_once.of_retrieval], measured_once.retrieval, measured_once.classes)


def test_known_sets_without_a_data_root(tmp_path) -> None:
    paths = [
        store(tmp_path, "retrieval", dataset="flickr30k-karpathy", protocol="karpathy"),
        store(tmp_path, "cls", dataset="food101", protocol="clip-benchmark"),
        store(tmp_path, "seg", dataset="voc20", protocol="cosmos"),
        store(tmp_path, "select", dataset="winoground", protocol="winoground"),
    ]
    found = gallery(paths)
    assert found == Gallery(notes=found.notes)
    assert len(found.notes) == 3  # of choices between captions nothing is shown
    for note, name in zip(found.notes, ("flickr30k-karpathy", "food101", "voc20"), strict=True):
        assert note.startswith(f"{name} (")
        assert "--data-root" in note
        assert note.endswith(f"(see `cosmos-eval data doctor {name}`)")
    assert all("\n" not in note for note in found.notes)


def test_samples_that_are_not_the_results_own(tmp_path) -> None:
    path = store(tmp_path, "cls", dataset="food101", protocol="clip-benchmark")
    archive = path.with_name(read_result(path).samples)
    archive.write_bytes(b"others")
    # Whoever asks for the gallery has noted that the result is not what was measured.
    assert gallery([path]) == Gallery()


def test_no_torch_where_no_model_is_loaded(measured_once) -> None:
    """Also what makes collecting from many results quick to start."""
    path, classes = measured_once.of_classes, measured_once.classes
    code = (
        "import sys; from pathlib import Path; from cosmos_eval.reporting.gallery import collect\n"
        "from cosmos_eval.types import RunOptions\n"
        "found = collect([Path(sys.argv[1])], RunOptions(), datasets=[sys.argv[2]])\n"
        "assert found.samples, found.notes\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(classes)], check=True)


def test_equal_input_gives_equal_bytes(measured_once, tmp_path) -> None:
    retrieval, classes, of_retrieval, of_classes, first = measured_once
    moved = tmp_path / "moved"
    shutil.copytree(of_classes.parent, moved)
    paths = [moved / of_classes.name, moved / of_retrieval.name]
    assert gallery(paths, classes, retrieval) == first


def test_results_of_fewer_samples_show_their_own(retrieval, model, tmp_path) -> None:
    """Both together: each is opened as far as it was measured."""
    folder = tmp_path / "results"
    measure(folder, model, retrieval, limit=2)
    paths = measure(folder, model, retrieval)
    found = gallery(paths, retrieval)
    assert found.notes == ()
    labels = {example.model for example in found.retrieval}
    assert labels == {f"{model} (random weights)", f"{model} (random weights, first 2 only)"}
    few = [e for e in found.retrieval if "first 2" in e.model and e.direction == "text_to_image"]
    assert {e.query for e in few} == {*CAPTIONS["red"], *CAPTIONS["green"]}
    assert all(len(e.retrieved) == 2 for e in few)
    assert {tuple(example.maps) for example in found.attention} == {(f"{model} (random weights)",)}
