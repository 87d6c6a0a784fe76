"""Suite files: those of the package name what the papers measured; a fault is one line."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

import open_clip
import pytest

from cosmos_eval.models.specs import BUNDLED, RELEASED
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.runner.suites import known_suites, read_score, read_suite
from cosmos_eval.types import UsageError

GOOD = "models: [scenes-cosmos]\ndatasets: {cosmos: [voc20]}\n"
ELEVEN = [
    *("imagenet1k", "food101", "cifar10", "cifar100", "sun397", "stanford_cars"),
    *("fgvc_aircraft", "dtd", "oxford_pets", "caltech101", "flowers102"),
]


def measured(name: str) -> dict[str, list[str]]:
    """Data sets by family."""
    found: dict[str, list[str]] = {}
    for protocol in read_suite(name).protocols:
        found.setdefault(protocol.family, []).append(protocol.dataset)
    return found


def test_the_suites_of_the_package():
    paper = ["paper-classification", "paper-retrieval", "paper-segmentation"]
    assert list(known_suites()) == [*paper, "scenes"]
    assert measured("paper-classification") == {"cosmos": ELEVEN, "clip-benchmark": ELEVEN}
    assert measured("paper-retrieval") == {
        "cosmos": ["coco-val2017", "flickr30k-val"],
        "karpathy": ["coco-karpathy", "flickr30k-karpathy"],
    }
    assert measured("paper-segmentation") == {"cosmos": list(SEGMENTATION)}
    assert len(measured("scenes")["scenes"]) == 7
    assert set(read_suite("scenes").models) <= set(BUNDLED)


def test_scores_of_the_package():
    members = read_score("paper-classification")
    assert {(m.task, m.family, m.metrics) for m in members} == {("cls", "cosmos", ("acc1",))}
    assert [member.dataset for member in members] == ELEVEN
    members = read_score("paper-segmentation")
    assert [(m.dataset, m.metrics) for m in members] == [(name, ("mIoU",)) for name in SEGMENTATION]
    for name in ("paper-retrieval", "scenes"):
        with pytest.raises(UsageError, match=r"yaml: the suite has no `score`"):
            read_score(name)


def test_a_score_is_of_primary_metrics_by_default(tmp_path):
    path = tmp_path / "own.yaml"
    sets = "{cosmos: [voc20, dtd], karpathy: [coco-karpathy], datacomp: [wds/vtab/pets]}"
    more = "score: {families: [karpathy, cosmos, datacomp], metrics: {dtd: acc5}}\n"
    path.write_text(f"models: [cosmos:lost.pt]\ndatasets: {sets}\n{more}")
    recalls = ("image_to_text_R@1", "text_to_image_R@1")
    found = [member.metrics for member in read_score(str(path))]
    assert found == [("mIoU",), ("acc5",), recalls, ("mean_per_class_recall",)]


@pytest.mark.parametrize("kind", ["classification", "retrieval", "segmentation"])
def test_papers_models_are_the_released_and_those_with_published_numbers(kind):
    models = read_suite(f"paper-{kind}").models
    text = files("cosmos_eval.protocols").joinpath("published/openclip.csv").read_text("utf-8")
    published = {row["model"] for row in csv.DictReader(text.splitlines())}
    assert {*models} == {*published, *(f"cosmos:{name}" for name in RELEASED)}
    for model in published:
        arch, tag = model.removeprefix("openclip:").split("/")
        assert open_clip.is_pretrained_cfg(arch, tag)


def test_files_are_relative_to_the_suite(tmp_path: Path):
    folder = tmp_path / "deep"
    (folder / "hub").mkdir(parents=True)
    for name in ("mine.pt", "hub/open_clip_config.json", "weights.bin"):
        (folder / name).write_text("{}")
    (folder / "own.yaml").write_text("kind: cls\nfolder: photos\n")
    suite = folder / "suite.yml"
    suite.write_text(
        "models: [cosmos:mine.pt, 'openclip:hub', openclip:ViT-B-32/weights.bin, "
        "openclip:ViT-B-32/openai]\ndatasets: {user: [own.yaml], cosmos: [voc20]}\n"
    )
    models, (own, known) = read_suite(str(suite))
    assert models == (
        f"cosmos:{folder}/mine.pt",
        f"openclip:{folder}/hub",
        f"openclip:ViT-B-32/{folder}/weights.bin",
        "openclip:ViT-B-32/openai",
    )
    assert (own.dataset, own.root) == ("own", str(folder))
    assert (known.dataset, known.family) == ("voc20", "cosmos")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "is not YAML"),
        ("[a, b]", "must hold keys and values, such as `models: "),
        (GOOD + "model: [x]\n", "unknown key `model`; nearest known: models"),
        (GOOD + "models: [scenes-clip]\n", "key 'models' is given twice"),
        ("datasets: {cosmos: [voc20]}\n", "`models` is missing"),
        ("models: []\ndatasets: {cosmos: [voc20]}\n", "`models` must have an entry"),
        ("models: scenes-clip\ndatasets: {}\n", "`models` must be a valid list"),
        ("models: [scenes-clip]\n", "`datasets` is missing"),
        ("models: [scenes-clip]\ndatasets: [voc20]\n", "`datasets` must map names to values"),
        (GOOD.replace("[voc20]", "voc20"), "`datasets.cosmos` must be a valid list"),
        (GOOD.replace("scenes-cosmos", "scenes-cosmo"), "unknown model 'scenes-cosmo'; nearest"),
        (GOOD.replace("scenes-cosmos", "cosmos:none.pt"), "no such file and no released model"),
        (GOOD.replace("scenes-cosmos", "openclip:ViT-B-32"), "use openclip:ARCH/TAG"),
        (GOOD.replace("voc20", "voc2"), "unknown data set 'voc2'; known: .*voc20"),
        (GOOD.replace("cosmos: [", "karpathy: ["), "voc20 has no protocol 'karpathy'; it has"),
        (GOOD.replace("voc20", "lost.yaml"), "lost.yaml states its own protocol: list it under"),
        (GOOD.replace("cosmos: [voc20", "user: [lost.yaml"), "lost.yaml: no such file"),
        (GOOD.replace("voc20", "voc20, voc20"), r"datasets: voc20 \(cosmos\) is given twice"),
        (GOOD + "score: {metric: acc1}\n", "score: voc20 has no metric 'acc1'; seg has"),
        (GOOD + "score: mean\n", "`score` must"),
        (GOOD.replace("cosmos]", "clip, scenes-clip]"), "models: scenes-clip is given twice"),
    ],
)
def test_what_is_wrong_in_a_file(text, message, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"own\.yaml: .*{message}") as raised:
        read_suite(str(path))
    assert "\n" not in str(raised.value)


def test_an_unknown_suite_is_reported_with_the_nearest():
    with pytest.raises(UsageError, match="unknown suite 'paper-segment'; known: paper-segmenta"):
        read_suite("paper-segment")
    with pytest.raises(UsageError, match=r"lost\.yaml: no such file"):
        read_suite("lost.yaml")
