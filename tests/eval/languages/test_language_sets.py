"""Data sets in many languages: what their files look like, and what is encoded once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image
from support.class_sets import WORDNET_IDS

import cosmos_eval
from cosmos_eval.data import translations
from cosmos_eval.data.class_names import class_names, templates_of
from cosmos_eval.data.classification import open_data as open_classes
from cosmos_eval.data.retrieval import RetrievalData, open_data
from cosmos_eval.data.translations import read_translation
from cosmos_eval.protocols.declared import read_yaml
from cosmos_eval.protocols.languages import (
    language_of,
    language_protocols,
    language_sets,
    with_all_languages,
)
from cosmos_eval.protocols.retrieval import RETRIEVAL
from cosmos_eval.results.checked import read_results
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.types import ClassificationProtocol, RetrievalProtocol, RunOptions, UsageError

NAMES = [f"COCO_train2014_{number:012}.jpg" for number in range(3)]
NAMES += [f"COCO_val2014_{number:012}.jpg" for number in range(3, 6)]
GERMAN = ["ein Hund", "eine Katze", "ein Ball", "ein Haus", "ein Auto", "ein Baum"]
ENGLISH = ["a dog", "a cat", "a ball", "a house", "a car", "a tree"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", newline="")


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (9, 7), (40 * number, len(name), 90)).save(folder / name, quality=95)


def small(dataset: str, n_images: int = 6) -> RetrievalProtocol:
    protocol = {**language_protocols(), **RETRIEVAL}[dataset]
    assert isinstance(protocol, RetrievalProtocol)
    n_captions = None if protocol.n_captions is None else n_images
    return replace(protocol, n_images=n_images, n_captions=n_captions)


def read(dataset: str, root: Path, n_images: int = 6) -> RetrievalData:
    return open_data(small(dataset, n_images), RunOptions(data_root=str(root)))


def captions_by_name(data: RetrievalData) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {name: [] for name in data.names}
    for caption, image in zip(data.captions, data.image_of_text.tolist(), strict=True):
        captions[data.names[image]].append(caption)
    return captions


def write_xtd10(root: Path) -> Path:
    """Write XTD10 as its repository has it: lines end in two ways, and German is elsewhere."""
    repository = root / "Cross-lingual-Test-Dataset-XTD10"
    write(repository / "XTD10/test_image_names.txt", "\n".join(NAMES) + "\n")
    write(repository / "XTD10/test_1kcaptions_en.txt", "\r\n".join(ENGLISH))
    write(repository / "MIC/test_1kcaptions_de.txt", "\n".join(GERMAN) + "\n")
    for language in language_sets()["xtd10"]:
        code = language.removeprefix("xtd10-")
        path = repository / f"XTD10/test_1kcaptions_{code}.txt"
        if code not in ("en", "de"):
            write(path, "\n".join(f"{code} {number}" for number in range(6)))
    write_images(root / "train2014", NAMES[:3])
    write_images(root / "coco/val2014", NAMES[3:])
    return repository


def test_languages_of_the_sets():
    n_languages = {name: len(protocols) for name, protocols in language_sets().items()}
    assert n_languages == {
        "xm3600": 36, "xtd10": 11, "xtd200": 201, "flickr30k-200": 201,
        "imagenet1k-translated": 4, "babel-imagenet": 90,
    }  # fmt: skip
    assert language_of("xm3600-de") == ("xm3600", "de")
    assert language_of("imagenet1k-zh") == ("imagenet1k-translated", "zh")
    assert language_of("imagenet1k") is None
    sizes = Counter(
        (protocol.language_set, protocol.n_images)
        for protocol in language_protocols().values()
        if isinstance(protocol, RetrievalProtocol)
    )
    assert sizes == {
        ("xm3600", 3600): 36, ("xtd10", 1000): 11,
        ("xtd200", 1000): 201, ("flickr30k-200", 1000): 201,
    }  # fmt: skip
    # Codes are those of CLIP Benchmark.
    for module, name in (("crossmodal3600", "xm3600"), ("multilingual_mscoco", "xtd10")):
        source = files("clip_benchmark").joinpath("datasets", f"{module}.py").read_text()
        listed = source.partition("SUPPORTED_LANGUAGES = [")[2].partition("]")[0]
        codes = {code.strip(' "\n') for code in listed.split(",")} - {""}
        assert {p.language for p in language_sets()[name].values()} == codes
    flores = files("clip_benchmark").joinpath("datasets", "flores_langs.py").read_text()
    for name in ("xtd200", "flickr30k-200"):
        for protocol in language_sets()[name].values():
            assert f'"{protocol.language}"' in flores
        assert flores.count('"') == 2 * len(language_sets()[name])


def test_the_name_of_a_set_is_all_of_its_languages():
    assert with_all_languages(["voc20", "xtd10"]) == ["voc20", *language_sets()["xtd10"]]
    protocols = make_plan(datasets=["imagenet1k-translated"], models=["scenes-clip"]).protocols
    assert [p.dataset for p in protocols] == [f"imagenet1k-{x}" for x in ("ar", "it", "jp", "zh")]
    with pytest.raises(UsageError, match="unknown data set 'xtd10-xx'; nearest: xtd10-"):
        make_plan(datasets=["xtd10-xx"], models=["scenes-clip"])
    with pytest.raises(UsageError, match="xtd10 is data sets in 11 languages: name one of them"):
        cosmos_eval.evaluate("scenes-clip", "xtd10")


def test_captions_on_lines_beside_names_in_another_file(tmp_path):
    repository = write_xtd10(tmp_path)
    english, german = read("xtd10-en", tmp_path), read("xtd10-de", tmp_path)
    assert english.names == german.names == tuple(NAMES)
    assert (list(english.captions), list(german.captions)) == (ENGLISH, GERMAN)
    assert [image.path.parent.name for image in english.images][2:4] == ["train2014", "val2014"]

    # Every fault is one line.
    write(repository / "XTD10/test_1kcaptions_en.txt", "\n".join(ENGLISH[:5]))
    with pytest.raises(UsageError, match="has 5 captions for 6 images"):
        read("xtd10-en", tmp_path)
    write(repository / "XTD10/test_1kcaptions_en.txt", "\n".join([*ENGLISH[:2], "", *ENGLISH[3:]]))
    with pytest.raises(UsageError, match="line 3: a caption is blank"):
        read("xtd10-en", tmp_path)
    (repository / "XTD10/test_image_names.txt").unlink()
    with pytest.raises(UsageError, match=r"test_image_names\.txt, which names"):
        read("xtd10-de", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "captions", "names"),
    [
        ("xtd200-deu_Latn", "nllb-clip/data/xtd200/deu_Latn.txt", "test_image_names.txt"),
        ("flickr30k-200-deu_Latn", "nllb-clip/data/flickr30k-200/deu_Latn.txt", "filenames.txt"),
    ],
)
def test_the_repository_of_nllb_clip(dataset, captions, names, tmp_path):
    write(tmp_path / captions, "\n".join(GERMAN) + "\n")
    write((tmp_path / captions).with_name(names), "\n".join(NAMES) + "\n")
    write_images(tmp_path / ("flickr30k-images" if "flickr" in dataset else "train2014"), NAMES)
    assert captions_by_name(read(dataset, tmp_path)) == {
        name: [caption] for name, caption in zip(NAMES, GERMAN, strict=True)
    }


@pytest.mark.parametrize(
    ("dataset", "file", "image_folder"),
    [
        ("xm3600-de", "crossmodal3600_captions-de.json", "xm3600/images"),
        ("xtd10-de", "multilingual_mscoco_captions-de.json", "multilingual_mscoco/images"),
        ("xtd10-de", "xtd10-de.json", "xtd10/images"),
        ("xtd200-deu_Latn", "xtd200-deu_Latn.json", "xtd200/images"),
        ("flickr30k-200-deu_Latn", "flickr30k_200-deu_Latn.json", "flickr30k-200/images"),
    ],
)
def test_the_files_that_clip_benchmark_makes(dataset, file, image_folder, tmp_path):
    paths = [f"/elsewhere/{image_folder}/{name}" for name in NAMES]
    content = {"image_paths": paths, "annotations": GERMAN, "indicies": list(range(6))}
    write(tmp_path / file, json.dumps(content))
    write_images(tmp_path / image_folder, NAMES)
    data = read(dataset, tmp_path)
    assert (data.names, list(data.captions)) == (tuple(NAMES), GERMAN)
    write(tmp_path / file, json.dumps({"image_paths": paths, "annotations": GERMAN[1:]}))
    with pytest.raises(UsageError, match="has 5 captions for 6 images"):
        read(dataset, tmp_path)


def test_all_languages_of_an_image_in_one_record(tmp_path):
    """Crossmodal-3600's captions.jsonl; CLIP Benchmark measures the first caption."""
    keys = ["d89a4889331ce042", "74f94963ee1e135d"]
    records = []
    for number, key in enumerate(keys):
        german = {"caption": [GERMAN[number], "noch eine"], "caption/tokenized": ["ein"]}
        records.append({"image/key": key, "image/locale": "ar", "de": german, "en": "a dog"})
    write(tmp_path / "xm3600/captions.jsonl", "\n".join(map(json.dumps, records)))
    write_images(tmp_path / "xm3600/images", [f"{key}.jpg" for key in keys])
    data = read("xm3600-de", tmp_path, n_images=2)
    assert data.names == tuple(f"{key}.jpg" for key in keys)
    assert list(data.captions) == GERMAN[:2]
    with pytest.raises(UsageError, match="line 1, en: must be a record with captions"):
        read("xm3600-en", tmp_path, n_images=2)
    with pytest.raises(UsageError, match="line 1: no `quz`"):
        read("xm3600-quz", tmp_path, n_images=2)


def test_chinese_captions(tmp_path):
    lines = ["1#zhm#0\t一只狗", "2#zhm#0\t一只猫", "1#zhm#1\t狗"]
    write(tmp_path / "nllb-clip/data/flickr30k-cn/test.txt", "\n".join(lines) + "\n")
    write_images(tmp_path / "flickr30k-images", ["1.jpg", "2.jpg"])
    protocol = replace(RETRIEVAL["flickr30k-cna"], n_images=2, n_captions=3)
    data = open_data(protocol, RunOptions(data_root=str(tmp_path)))
    assert captions_by_name(data) == {"1.jpg": ["一只狗", "狗"], "2.jpg": ["一只猫"]}
    write(tmp_path / "nllb-clip/data/flickr30k-cn/test.txt", "1#zhm#0\t一只狗\n2 一只猫\n")
    with pytest.raises(UsageError, match="line 2: expected IMAGE#NUMBER, a tab and a caption"):
        open_data(protocol, RunOptions(data_root=str(tmp_path)))

    # COCO-CN has images of both splits of COCO 2014.
    content = {
        "images": [{"id": number, "file_name": NAMES[number]} for number in (1, 4)],
        "annotations": [{"id": 1, "image_id": n, "caption": f"狗 {n}"} for n in (4, 1)],
    }
    write(tmp_path / "coco-cn/coco-cn_test.json", json.dumps(content))
    write_images(tmp_path / "coco/train2014", NAMES[:3])
    write_images(tmp_path / "coco/val2014", NAMES[3:])
    protocol = replace(RETRIEVAL["coco-cn"], n_images=2, n_captions=2)
    data = open_data(protocol, RunOptions(data_root=str(tmp_path)))
    assert captions_by_name(data) == {NAMES[1]: ["狗 1"], NAMES[4]: ["狗 4"]}


COUNTING = """
from pathlib import Path

import cosmos_core
import cosmos_eval
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from open_clip import image_transform

clip = cosmos_core.load_model(cosmos_core.bundled_models()["scenes-clip"].weights_path)


def counted(kind, encode):
    def encode_and_count(batch):
        with Path(__file__).with_name("counts.txt").open("a") as file:
            file.write(f"{kind} {len(batch)}\\n")
        return encode(batch)

    return encode_and_count


model = cosmos_eval.TwoTower(
    encode_image=counted("image", clip.encode_image),
    encode_text=counted("text", clip.encode_text),
    transform=image_transform(64, is_train=False),
    tokenize=scenes_tokenizer(),
    name="counting",
    weights=clip,
)
"""


def counted_run(command, *arguments: object) -> Counter[str]:
    """Run the counting model; return how many images and texts it encoded."""
    Path("counting.py").write_text(COUNTING)
    Path("counts.txt").unlink(missing_ok=True)
    ended = command("run", "--model", "python:counting.py", "--data-root", ".", *arguments)
    assert ended.status == 0, ended.err
    counts: Counter[str] = Counter()
    for line in Path("counts.txt").read_text().splitlines():
        kind, number = line.split()
        counts[kind] += int(number)
    return counts


def test_images_are_encoded_once_for_all_languages_and_each_text_once(command):
    write_xtd10(Path())
    limit = ("--limit", 6)
    english = counted_run(command, "--dataset", "xtd10-en", *limit, "--no-cache", "--output", "a")
    every = counted_run(command, "--dataset", "xtd10", *limit, "--no-cache", "--output", "r")
    assert every["image"] == english["image"]
    assert every["text"] == english["text"] + 10 * 6
    rows = read_results("r")
    assert {row.dataset for row in rows} == set(language_sets()["xtd10"])
    assert len({row.provenance["hashes"]["content"] for row in rows}) == 1
    (alone,) = read_results("a")
    assert alone.metrics == next(row for row in rows if row.dataset == "xtd10-en").metrics

    # With the cache, a second run encodes only a few again, to check the model.
    first = counted_run(command, "--dataset", "xtd10", *limit, "--output", "c")
    again = counted_run(command, "--dataset", "xtd10", *limit, "--output", "c")
    assert first == every
    assert again["image"] <= first["image"] - 6
    assert again["text"] <= first["text"] - 11 * 6


def write_imagenet(root: Path) -> None:
    for number, name in enumerate(WORDNET_IDS):
        folder = root / "imagenet/val" / name
        folder.mkdir(parents=True)
        (folder / "1.JPEG").touch()
        if number in (1, 7, 999):
            Image.new("RGB", (6, 4), (number % 256, 9, 9)).save(folder / "1.JPEG")


def open_language(dataset: str, root: Path):
    protocol = language_protocols()[dataset]
    assert isinstance(protocol, ClassificationProtocol)
    n_classes = protocol.n_classes
    data = open_classes(replace(protocol, n_images=n_classes), RunOptions(data_root=str(root)))
    return protocol, data


def test_translated_classes_of_imagenet(tmp_path):
    write_imagenet(tmp_path)
    folder = files("clip_benchmark").joinpath("datasets")
    for language, code in (("it", "it"), ("zh", "cn"), ("jp", "jp"), ("ar", "ar")):
        protocol, data = open_language(f"imagenet1k-{language}", tmp_path)
        assert data.classes == tuple(WORDNET_IDS)
        names = json.loads(folder.joinpath(f"{code}_classnames.json").read_text("utf-8"))
        assert list(class_names(protocol, data)) == names["imagenet1k"]
        file = f"{code}_zeroshot_classification_templates.json"
        templates = json.loads(folder.joinpath(file).read_text("utf-8"))["imagenet1k"]
        assert [t.replace("{}", "{c}") for t in templates_of(protocol, data)] == templates
    assert class_names(*open_language("imagenet1k-it", tmp_path))[1] == "un pesce rosso"

    # Babel-ImageNet has some of the classes, and only their images.
    protocol, data = open_language("babel-imagenet-de", tmp_path)
    indices, names = json.loads(folder.joinpath("babel_imagenet.json").read_text())["DE"]
    assert (len(indices), protocol.n_classes) == (738, 738)
    assert data.classes == tuple(WORDNET_IDS[index] for index in indices)
    assert list(class_names(protocol, data)) == names
    assert [name.split("/")[0] for name in data.names] == list(data.classes)
    assert data.labels.tolist() == list(range(738))
    assert len(templates_of(protocol, data)) == 80
    assert {template.count("{}") for template in templates_of(protocol, data)} == {1}


def test_every_translation_has_the_declared_number_of_classes():
    for protocol in language_protocols().values():
        if isinstance(protocol, ClassificationProtocol):
            assert protocol.translation is not None
            translation = read_translation(protocol.translation)
            assert len(translation.names) == len(translation.class_indices) == protocol.n_classes
            assert protocol.n_images == 50 * len(translation.names)


def test_another_version_of_the_translations_is_refused(monkeypatch):
    hashes = {**read_yaml("languages")[".sha256"], "it_classnames.json": "0" * 64}
    monkeypatch.setitem(read_yaml("languages"), ".sha256", hashes)
    translations._read_checked.cache_clear()
    with pytest.raises(UsageError, match=r"another it_classnames\.json: install clip"):
        read_translation.__wrapped__("it")
