"""DataComp's eval_results.jsonl and OpenCLIP's tables of the same data sets, both ways."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
from support.exchange import DATACOMP, OPENCLIP, by_dataset, cells, made_up, read

from cosmos_eval.protocols.webdatasets import WEBDATASETS
from cosmos_eval.results.exchange import datacomp, openclip
from cosmos_eval.results.exchange.places import find_results
from cosmos_eval.types import UsageError

COCO = "wds/retrieval/mscoco_2014_5k_test_image_text_retrieval"
FLICKR = "wds/retrieval/flickr_1k_test_image_text_retrieval"
# The metrics of each task that DataComp's files have, other than main metrics.
MADE_UP = {
    "cls": {"acc1": 0.5, "acc5": 0.75, "mean_per_class_recall": 0.25},
    "retrieval": {"image_to_text_R@1": 0.5, "text_to_image_R@1": 0.375, "image_to_text_R@5": 0.625},
    "assoc": {"jaccard": 0.5, "jaccard_5-6": 0.625, "jaccard_10-12": 0.375},
    "faces": {"acc_race": 0.5, "acc_gender": 0.75, "acc_race_race 3": 0.25},
}


def all_40_sets(spec="openclip:ViT-B-32/datacomp_xl"):
    """A result of each data set, whose main metric is another number for each."""
    fields = []
    for number, (dataset, protocols) in enumerate(sorted(WEBDATASETS.items())):
        if "datacomp" in protocols:
            protocol = protocols["datacomp"]
            metrics = dict(MADE_UP[protocol.task])
            if protocol.main_metric:
                metrics[protocol.main_metric] = number / 1000
            row = {"task": protocol.task, "dataset": dataset, "protocol": "datacomp"}
            fields.append({**row, "metrics": metrics, "model": {"spec": spec}})
    assert len(fields) == 40
    return made_up(*fields)


def test_its_file_is_read():
    """Numbers copied by hand from the file, with the names of its metrics."""
    content = read("datacomp", DATACOMP)
    metrics = by_dataset(content.results)
    assert len(metrics) == 11
    assert metrics["wds/imagenet1k"] == {
        "acc1": 0.15,
        "acc5": 0.35,
        "mean_per_class_recall": 0.14583333333333334,
    }
    assert "acc5" not in metrics["wds/vtab/pcam"]  # null, of two classes
    assert metrics[COCO] == {
        "text_to_image_R@1": 0.07500000298023224,  # image_retrieval_recall@1
        "image_to_text_R@1": 0.05000000074505806,  # text_retrieval_recall@1
        "text_to_image_R@5": 0.42500001192092896,
        "image_to_text_R@5": 0.20000000298023224,
        "text_to_image_R@10": 0.675000011920929,
        "image_to_text_R@10": 0.4000000059604645,
    }
    assert metrics["wds/misc/winogavil"] == {
        "jaccard": 0.16666666666666666,
        "jaccard_5-6": 0.2222222222222222,
        "jaccard_10-12": 0.1111111111111111,
    }
    assert metrics["wds/wilds/iwildcam"]["f1_macro"] == 0.059176672250032425  # F1-macro_all
    assert metrics["wds/wilds/fmow"]["worst_group_acc1"] == 0.0  # acc_worst_region
    assert metrics["wds/fairness/geode"]["worst_group_acc1"] == 0.05000000074505806  # acc_wg
    dollar_street = metrics["wds/fairness/dollar_street"]
    assert dollar_street["worst_group_acc5"] == 0.6000000238418579  # acc_top5_wg
    assert metrics["wds/fairness/fairface"] == {
        "acc_race": 0.15000000596046448,  # acc_race_avg
        "acc_gender": 0.5,
        "acc_age": 0.0833333358168602,
        "toxicity_crime": 0.0,
        "toxicity_nonhuman": 0.0,
    }
    assert {result.protocol for result in content.results} == {"datacomp"}
    assert {result.model for result in content.results} == {"datacomp"}  # the name of its folder
    assert content.unknown_datasets == []


def test_every_number_of_its_file_is_read_or_named():
    content = read("datacomp", DATACOMP)
    n_values = 0
    for line in DATACOMP.read_text().splitlines():
        metrics = json.loads(line)["metrics"]
        n_values += sum(value is not None for value in metrics.values())
        n_values -= metrics.get("main_metric") is not None  # another metric a second time
    n_values -= 1  # mean_recall@1, the mean of two others
    n_read = sum(len(result.metrics) for result in content.results)
    assert n_read + len(content.unread) == n_values


def test_main_metrics_are_those_of_its_file():
    """What tasklist.yml calls main metrics are the main metrics here."""
    metrics = by_dataset(read("datacomp", DATACOMP).results)
    for line in DATACOMP.read_text().splitlines():
        record = json.loads(line)
        dataset = f"wds/{record['key']}"
        main_metric = datacomp.main_metric_here(dataset)
        value = record["metrics"]["main_metric"]
        if main_metric == "mean_recall@1":
            directions = [metrics[dataset][f"{name}_R@1"] for name in DIRECTIONS]
            assert value == pytest.approx(fmean(directions))
        else:
            assert metrics[dataset].get(main_metric) == value


DIRECTIONS = ("image_to_text", "text_to_image")


def test_broken_and_repeated_lines_are_named(tmp_path):
    lines = DATACOMP.read_text().splitlines()[:2]
    other = json.loads(lines[0])
    other["metrics"]["acc1"] = 0.25
    other["key"] = "new/set"
    text = "\n".join(
        [lines[0], lines[0].replace("0.15", "0.875"), "{}", json.dumps(other), '{"key']
    )
    path = tmp_path / "ours.jsonl"
    path.write_text(text)
    content = read("datacomp", path)
    metrics = by_dataset(content.results)
    assert metrics["wds/imagenet1k"]["acc1"] == 0.875  # the last line counts, as in evaluate.py
    assert metrics["wds/new/set"]["acc1"] == 0.25
    assert content.unread == [
        "line 5",
        "an earlier line of imagenet1k",
        "a line without key, dataset and metrics",
    ]
    assert content.unknown_datasets == ["wds/new/set"]
    assert content.results[0].model == "ours"


def test_what_is_written_for_datacomp_is_read_again(tmp_path):
    results = all_40_sets()
    written = datacomp.FORMAT.write(results, tmp_path / "eval_results.jsonl")
    assert (list(written.paths), written.notes) == ([tmp_path / "eval_results.jsonl"], [])
    files = find_results(written.paths)
    assert files.notes == []
    assert {result.cell: result.metrics for result in files.imported} == cells(results)


def test_its_aggregate_scores_reads_our_file(tmp_path):
    """As aggregate_scores.py does: 38 lines have a main metric, and Average is their mean."""
    results = all_40_sets()
    (path,) = datacomp.FORMAT.write(results, tmp_path / "eval_results.jsonl").paths
    table = pd.read_json(path, lines=True)
    table = pd.concat([table.drop(["metrics"], axis=1), table["metrics"].apply(pd.Series)], axis=1)
    table = table.dropna(subset=["main_metric"])
    assert len(table) == 38
    scores = dict(zip(table.dataset, table.main_metric, strict=True))
    assert scores["Flickr"] == 0.4375  # the mean of 0.5 and 0.375
    names = sorted(WEBDATASETS)
    assert scores["FMoW"] == pytest.approx(names.index("wds/wilds/fmow") / 1000)
    assert scores["Dollar Street"] == pytest.approx(
        names.index("wds/fairness/dollar_street") / 1000
    )

    lines = {line["key"]: line for line in map(json.loads, path.read_text().splitlines())}
    theirs = [json.loads(line) for line in DATACOMP.read_text().splitlines()]
    for line in theirs:
        assert lines[line["key"]]["dataset"] == line["dataset"]
        assert lines[line["key"]].keys() == {*line, "model"}
    assert lines["wilds/fmow"]["metrics"]["acc_worst_region"] == pytest.approx(scores["FMoW"])
    assert "acc_wg" not in lines["wilds/fmow"]["metrics"]
    assert "acc_wg" in lines["fairness/geode"]["metrics"]


def test_each_model_has_a_file(tmp_path):
    results = made_up(
        {"dataset": "wds/cars", "protocol": "datacomp", "metrics": {"acc1": 0.5}},
        {
            "dataset": "wds/cars",
            "protocol": "datacomp",
            "metrics": {"acc1": 0.25},
            "model": {"spec": "openclip:ViT-B-32/openai"},
        },
        {"dataset": "wds/cars", "protocol": "clip-benchmark", "metrics": {"acc1": 0.125}},
    )
    with pytest.raises(UsageError, match=r"x\.jsonl can hold one model, not openclip:.*, scenes-"):
        datacomp.FORMAT.write(results, tmp_path / "x.jsonl")
    written = datacomp.FORMAT.write(results, tmp_path / "out")
    assert [path.name for path in written.paths] == ["eval_results.jsonl"] * 2
    imported = find_results([tmp_path / "out"]).imported
    assert {result.model: result.metrics["acc1"] for result in imported} == {
        "scenes-cosmos": 0.5,
        "openclip:ViT-B-32/openai": 0.25,
    }
    assert written.notes == [
        "results not written for DataComp: 1, of data sets or protocols that it does not have: "
        "wds/cars (clip-benchmark)"
    ]


@pytest.mark.parametrize("format", [datacomp.FORMAT, openclip.FORMAT])
def test_nothing_is_written_of_other_protocols(tmp_path, format):
    with pytest.raises(UsageError, match=r"not written .*: 1, of .*: scenes-cls \(scenes\)"):
        format.write(made_up({}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_openclips_tables_are_read():
    """Numbers copied by hand from the first row of each table."""
    results = read("openclip", OPENCLIP / "openclip_results.csv").results
    model = "openclip:ViT-H-14-378-quickgelu/dfn5b"
    metrics = by_dataset(result for result in results if result.model == model)
    assert len(metrics) == 38
    assert metrics["wds/imagenet1k"] == {"acc1": 0.8437}
    assert metrics["wds/vtab/caltech101"] == {"mean_per_class_recall": 0.9517}
    assert metrics[FLICKR] == {"mean_recall@1": 0.8801}
    assert metrics["wds/wilds/iwildcam"] == {"f1_macro": 0.2205}
    assert metrics["wds/fairness/dollar_street"] == {"worst_group_acc5": 0.7173}
    content = read("openclip", OPENCLIP / "openclip_retrieval_results.csv")
    assert content.unread[:3] == ["params (M)", "FLOPs (B)", "Average score"]
    metrics = by_dataset(result for result in content.results if result.model == model)
    assert metrics[COCO] == {
        "text_to_image_R@1": 0.5564,
        "text_to_image_R@5": 0.7920,
        "text_to_image_R@10": 0.8626,
        "image_to_text_R@1": 0.7188,
        "image_to_text_R@5": 0.9048,
        "image_to_text_R@10": 0.9496,
    }
    assert metrics["wds/misc/winogavil"] == {
        "jaccard": 0.6123,
        "jaccard_5-6": 0.6265,
        "jaccard_10-12": 0.5674,
    }


def test_openclips_tables_agree_with_the_published_numbers_of_the_package():
    """Another reader of the same table, by another code."""
    from cosmos_eval.results.leaderboard.entries import read_published_entries

    published = {}
    for entry in read_published_entries():
        if entry.protocol == "datacomp":
            published[entry.model.replace("-quickgelu/", "/"), entry.dataset] = entry.metrics
    results = read("openclip", OPENCLIP / "openclip_results.csv").results
    assert len(results) == 3 * 38
    for result in results:
        key = (result.model.replace("-quickgelu/", "/"), result.dataset)
        assert published[key] == pytest.approx(result.metrics)


def test_an_impossible_number_and_a_missing_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("name,pretrained,ImageNet 1k,Flickr,CIFAR-10\nViT-B-32,openai,63.3,,0.9\n")
    content = read("openclip", path)
    assert by_dataset(content.results) == {"wds/cifar10": {"acc1": 0.9}}
    (unread,) = content.unread
    assert unread == (
        "ImageNet 1k of openclip:ViT-B-32/openai (63.3 is not a fraction, which is from 0 to 1)"
    )


def test_what_is_written_for_openclip_is_read_again(tmp_path):
    """The table of results has main metrics, and the other one has further ones of retrieval."""
    results = all_40_sets()
    written = openclip.FORMAT.write(results, tmp_path)
    assert [path.name for path in written.paths] == [
        "openclip_results.csv",
        "openclip_retrieval_results.csv",
    ]
    files = find_results([tmp_path])
    metrics = {result.dataset: result.metrics for result in files.imported}
    assert len(metrics) == 38
    for result in results:
        row = result.row
        if row.task == "cls":
            main_metric = WEBDATASETS[row.dataset]["datacomp"].main_metric
            assert metrics[row.dataset] == {main_metric: row.metrics[main_metric]}
        elif row.task != "faces":
            recalls = {"mean_recall@1": 0.4375} if row.task == "retrieval" else {}
            assert metrics[row.dataset] == row.metrics | recalls
    assert {result.model for result in files.imported} == {"openclip:ViT-B-32/datacomp_xl"}

    rows = list(csv.DictReader(io.StringIO((tmp_path / "openclip_results.csv").read_text())))
    theirs = list(csv.DictReader((OPENCLIP / "openclip_results.csv").read_text().splitlines()))
    assert rows[0].keys() == theirs[0].keys() - {"params (M)", "FLOPs (B)"}
    values = [float(rows[0][name]) for name in list(rows[0])[3:]]
    assert float(rows[0]["Average perf. on 38 datasets"]) == pytest.approx(fmean(values))


def test_a_model_without_all_sets_has_no_average(tmp_path):
    model = {"spec": "openclip:ViT-B-32/openai"}
    cars = {"dataset": "wds/cars", "protocol": "datacomp", "model": model}
    (path,) = openclip.FORMAT.write(made_up(cars), tmp_path).paths
    (row,) = csv.DictReader(Path(path).read_text().splitlines())
    assert (row["name"], row["pretrained"], row["Stanford Cars"]) == ("ViT-B-32", "openai", "0.25")
    assert {name for name, cell in row.items() if cell} == {"name", "pretrained", "Stanford Cars"}
