"""Suite files: the ones of the package name the data sets of the papers; a fault is one line."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

import open_clip
import pytest

from cosmos_eval.models.specs import BUNDLED, RELEASED
from cosmos_eval.protocols import named_protocols
from cosmos_eval.protocols.facts import read_table
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.runner import catalog
from cosmos_eval.runner.catalog import suites
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.suites import known_suites, read_score, read_suite
from cosmos_eval.types import UsageError

GOOD = "models: [scenes-cosmos]\ndatasets: {cosmos: [voc20]}\n"
ELEVEN = [
    *("imagenet1k", "food101", "cifar10", "cifar100", "sun397", "stanford_cars"),
    *("fgvc_aircraft", "dtd", "oxford_pets", "caltech101", "flowers102"),
]
RECALLS = ("image_to_text_R@1", "text_to_image_R@1")
# tasklist.yml of DataComp, in its order: the names of those with a main metric of their own, here.
MAIN_METRICS = {
    **dict.fromkeys(("vtab/caltech101", "fgvc_aircraft"), "mean_per_class_recall"),
    **dict.fromkeys(("vtab/flowers", "vtab/pets"), "mean_per_class_recall"),
    "misc/winogavil": "jaccard_10-12",
    "wilds/iwildcam": "f1_macro",
    "wilds/fmow": "worst_group_acc1",
    "fairness/dollar_street": "worst_group_acc5",
    "fairness/geode": "worst_group_acc1",
}
DATACOMP = """
vtab/caltech101 cifar10 vtab/cifar100 vtab/clevr_count_all vtab/clevr_closest_object_distance
country211 vtab/dtd vtab/eurosat fgvc_aircraft food101 gtsrb imagenet1k imagenet_sketch imagenetv2
imagenet-a imagenet-o imagenet-r vtab/kitti_closest_vehicle_distance mnist objectnet vtab/flowers
vtab/pets voc2007 vtab/pcam renderedsst2 vtab/resisc45 cars stl10 sun397 vtab/svhn
retrieval/flickr_1k_test_image_text_retrieval retrieval/mscoco_2014_5k_test_image_text_retrieval
misc/winogavil wilds/iwildcam wilds/camelyon17 wilds/fmow fairness/dollar_street fairness/geode
"""


def measured(name: str) -> dict[str, list[str]]:
    """Return the data sets of a suite by their protocol."""
    datasets: dict[str, list[str]] = {}
    for protocol in read_suite(name).protocols:
        datasets.setdefault(protocol.protocol_name, []).append(protocol.dataset)
    return datasets


def test_the_suites_of_the_package():
    assert measured("paper-classification") == {"cosmos": ELEVEN, "clip-benchmark": ELEVEN}
    assert measured("paper-retrieval") == {
        "cosmos": ["coco-val2017", "flickr30k-val"],
        "karpathy": ["coco-karpathy", "flickr30k-karpathy"],
    }
    assert measured("paper-segmentation") == {"cosmos": list(SEGMENTATION)}
    assert len(measured("scenes")["scenes"]) == 7
    assert set(read_suite("scenes").models) <= set(BUNDLED)


def test_scores_of_the_package():
    members = read_score("paper-classification").members
    assert {(m.task, m.protocol, m.metrics) for m in members} == {("cls", "cosmos", ("acc1",))}
    assert [member.dataset for member in members] == ELEVEN
    members = read_score("paper-segmentation").members
    assert [(m.dataset, m.metrics) for m in members] == [(name, ("mIoU",)) for name in SEGMENTATION]
    for name in ("paper-retrieval", "scenes"):
        with pytest.raises(UsageError, match=rf"suite {name} has no `score`"):
            read_score(name)


def test_datacomp_is_its_list_of_tasks():
    suite, listed = read_score("datacomp-38"), DATACOMP.split()
    assert [member.dataset for member in suite.members] == [f"wds/{name}" for name in listed]
    assert suite.present(len(listed)) == "38 of 38"
    for member, name in zip(suite.members, listed, strict=True):
        of_task = RECALLS if name.startswith("retrieval/") else (MAIN_METRICS.get(name, "acc1"),)
        assert member.metrics == of_task


def test_vtab_plus_is_what_clip_benchmark_measures_without_two_of_its_list():
    """Its webdatasets.txt also has ImageNet-O and one more label of dSprites."""
    rows = [
        row for row in read_table("webdatasets.csv") if row["protocol_name"] == "clip-benchmark"
    ]
    listed = {f"wds/{row['name']}" for row in rows if row["task"] == "cls"}
    members = read_score("vtab+").members
    more = {"wds/imagenet-o", "wds/vtab/dsprites_label_y_position"}
    assert {member.dataset for member in members} == listed - more
    assert {(m.protocol, m.metrics) for m in members} == {("clip-benchmark", ("acc1",))}
    assert len(members) == 35


def test_smaller_suites_of_the_field():
    shifts = {"v2", "_sketch", "-a", "-o", "-r"}
    expected = {"wds/objectnet", *(f"wds/imagenet{name}" for name in shifts)}
    members = read_score("robustness").members
    assert {m.dataset for m in members if m.metrics == ("acc1",)} == expected
    for name in ("retrieval", "long-text"):
        assert {m.metrics for m in read_score(name).members} == {RECALLS}
    compositional = {m.dataset for m in read_score("compositionality").members}
    # These sets ask about the size of objects, cultures, boxes, or what people prefer.
    not_compositional = {
        "coco-suppression",
        "cvqa",
        "cvqa-english",
        "fg-ovd",
        "refcoco",
        "refcoco+",
        "refcocog",
        "pascal-50s",
    }
    assert compositional == {*SELECTION} - not_compositional
    assert measured("segmentation-8") == {"cosmos": list(SEGMENTATION)}


@pytest.mark.parametrize("name", known_suites())
def test_nothing_that_can_be_measured_is_left_out(name):
    assert not {*named_protocols()} & {*read_suite(name).left_out}


def test_suites_are_listed_with_members_rule_and_source():
    listed = {record["suite"]: record for record in suites()}
    assert {*listed} == {*known_suites()}
    of_datacomp = listed["datacomp-38"]
    assert of_datacomp["members"] == "38 of 38"
    assert listed["compositionality"]["members"] == "19 of 19"
    assert "mieb: aro-coco-order, aro-flickr30k-order; " in listed["compositionality"]["datasets"]
    assert "mean_per_class_recall (4)" in of_datacomp["score"]
    assert of_datacomp["source"].endswith("/tasklist.yml")
    assert all(record["source"] for record in listed.values())
    assert listed["mess"]["score"] == "mean of mIoU (22)"  # four of its 25 sets count as one
    assert listed["scenes"]["score"] == "none"
    assert listed["vtab+"]["models"] == "--model"


def test_sets_that_are_left_out_are_listed(tmp_path, monkeypatch):
    path = tmp_path / "own.yaml"
    path.write_text(GOOD + "left_out: {winogavil: it has no reader}\nscore: {}\n")

    def only_this_suite():
        return [str(path)]

    monkeypatch.setattr(catalog, "suite_names", only_this_suite)
    (record,) = suites()
    assert record["members"] == "1 of 2"
    assert record["datasets"] == "cosmos: voc20; left out: winogavil"


def test_models_of_the_command_line_replace_the_models_of_the_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(GOOD.replace("scenes-cosmos", "cosmos:lost.pt"))
    plan = make_plan(suite=str(path), models=["scenes-clip"])
    assert [pair.model for pair in plan.pairs] == ["scenes-clip"]
    path.write_text("datasets: {cosmos: [voc20]}\n")
    with pytest.raises(UsageError, match=r"own\.yaml names no models: name one with --model SPEC"):
        make_plan(suite=str(path))
    with pytest.raises(UsageError, match="leave --task, --dataset and --protocol out"):
        make_plan(suite=str(path), task="seg", models=["scenes-clip"])


def test_mess_is_the_mean_of_22_sets_and_has_a_suite_for_each_domain():
    """mess/evaluation/mess_evaluation.py: PAXRay's four sets are replaced by their mean."""
    members = read_score("mess").members
    assert (len(members), sum(member.weight for member in members)) == (25, 22)
    quarters = {member.dataset for member in members if member.weight == 0.25}
    paxray_sets = ("lungs", "bones", "mediastinum", "diaphragm")
    assert quarters == {f"mess/paxray-{name}" for name in paxray_sets}
    weight_of_domain = {
        "general": 6,
        "earth-monitoring": 5,
        "medical-sciences": 4,
        "engineering": 4,
        "agriculture-biology": 3,
    }
    members_of_domains = []
    for domain, weight in weight_of_domain.items():
        members_of_domain = read_score(f"mess-{domain}").members
        assert sum(member.weight for member in members_of_domain) == weight
        members_of_domains += members_of_domain
    assert members_of_domains == list(members)
    assert {member.metrics for member in members} == {("mIoU",)}


def test_a_score_is_of_primary_metrics_by_default(tmp_path):
    path = tmp_path / "own.yaml"
    sets = "{cosmos: [voc20, dtd], karpathy: [coco-karpathy], datacomp: [wds/vtab/pets]}"
    more = "score: {protocols: [karpathy, cosmos, datacomp], metrics: {dtd: acc5}}\n"
    path.write_text(f"models: [cosmos:lost.pt]\ndatasets: {sets}\n{more}")
    metrics = [member.metrics for member in read_score(str(path)).members]
    assert metrics == [("mIoU",), ("acc5",), RECALLS, ("mean_per_class_recall",)]


def test_the_older_key_of_protocols_is_read(tmp_path):
    path = tmp_path / "own.yaml"
    sets = "{cosmos: [voc20, dtd], karpathy: [coco-karpathy]}"
    path.write_text(f"datasets: {sets}\nscore: {{families: [karpathy]}}\n")
    assert [member.dataset for member in read_score(str(path)).members] == ["coco-karpathy"]


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
    content = read_suite(str(suite))
    user_protocol, published_protocol = content.protocols
    assert content.models == (
        f"cosmos:{folder}/mine.pt",
        f"openclip:{folder}/hub",
        f"openclip:ViT-B-32/{folder}/weights.bin",
        "openclip:ViT-B-32/openai",
    )
    assert (user_protocol.dataset, user_protocol.root) == ("own", str(folder))
    assert published_protocol.dataset == "voc20"
    assert published_protocol.protocol_name == "cosmos"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "is not YAML"),
        ("[a, b]", "must hold keys and values, such as `datasets: "),
        (GOOD + "model: [x]\n", "unknown key `model`; nearest known: models"),
        (GOOD + "models: [scenes-clip]\n", "key 'models' is given twice"),
        (GOOD + "left_out: {voc20: lost}\n", "left_out: voc20 is one of `datasets`"),
        (GOOD + "left_out: [voc21]\n", "`left_out` must map names to values"),
        ("models: []\ndatasets: {cosmos: [voc20]}\n", "`models` must have an entry"),
        ("models: scenes-clip\ndatasets: {}\n", "`models` must be a valid list"),
        ("models: [scenes-clip]\n", "`datasets` is missing"),
        ("models: [scenes-clip]\ndatasets: [voc20]\n", "`datasets` must map names to values"),
        (GOOD.replace("[voc20]", "voc20"), "`datasets.cosmos` must be a valid list"),
        (GOOD.replace("scenes-cosmos", "scenes-cosmo"), "unknown model 'scenes-cosmo'; nearest"),
        (GOOD.replace("scenes-cosmos", "cosmos:none.pt"), "no such file and no released model"),
        (GOOD.replace("scenes-cosmos", "openclip:ViT-B-33"), "use openclip:ARCH/TAG"),
        (GOOD.replace("voc20", "voc2"), "unknown data set 'voc2'; nearest: .*voc20"),
        (GOOD.replace("cosmos: [", "karpathy: ["), "voc20 has no protocol 'karpathy'; nearest: "),
        (GOOD.replace("voc20", "lost.yaml"), "lost.yaml states its own protocol: list it under"),
        (GOOD.replace("cosmos: [voc20", "user: [lost.yaml"), "lost.yaml: no such file"),
        (GOOD.replace("voc20", "voc20, voc20"), r"datasets: voc20 \(cosmos\) is given twice"),
        (GOOD + "score: {metric: acc1}\n", "score: voc20 has no metric 'acc1'; seg has"),
        (GOOD + "score: mean\n", "`score` must"),
        (
            GOOD + "score: {as_one: [[voc2]]}\n",
            "score.as_one: unknown member 'voc2'; nearest: voc20",
        ),
        (GOOD + "score: {as_one: [[voc20], [voc20]]}\n", "score.as_one: voc20 is given twice"),
        (GOOD.replace("cosmos]", "clip, scenes-clip]"), "models: scenes-clip is given twice"),
        (GOOD.replace("scenes-cosmos", "{model: scenes-clip, nam: a}"), "unknown key `models.*nam"),
        (GOOD.replace("scenes-cosmos", "{name: a}"), r"`models\[0\].model` is missing"),
        (GOOD.replace("scenes-cosmos", "3"), r"`models\[0\]` must map names to values, not 3"),
        (
            GOOD.replace("scenes-cosmos", "{model: scenes-clip, name: ' a'}"),
            r"name ' a': use",
        ),
        (
            GOOD.replace("cosmos]", "clip, {model: scenes-cosmos, name: scenes-clip}]"),
            "models: scenes-clip is given twice",
        ),
    ],
)
def test_faults_of_a_suite_file_are_one_line(text, message, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"own\.yaml: .*{message}") as raised:
        read_suite(str(path))
    assert "\n" not in str(raised.value)


def test_names_of_models(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        GOOD.replace("scenes-cosmos", "scenes-clip, {model: scenes-cosmos, name: ours}")
    )
    read = read_suite(str(path))
    assert (read.models, read.names) == (("scenes-clip", "scenes-cosmos"), (None, "ours"))
    assert [spec.called for spec in make_plan(suite=str(path)).specs] == ["scenes-clip", "ours"]


def test_an_unknown_suite_is_reported_with_the_nearest():
    with pytest.raises(UsageError, match="unknown suite 'paper-segment'; nearest: paper-segmenta"):
        read_suite("paper-segment")
    with pytest.raises(UsageError, match=r"lost\.yaml: no such file"):
        read_suite("lost.yaml")
