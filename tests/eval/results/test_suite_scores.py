"""The score of a suite, by real result files."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t
from support.html import Page
from support.results import store_result

from cosmos_eval.cli.app import main

SUITE = "models: [scenes-cosmos]\ndatasets: {cosmos: [food101, dtd]}\nscore: {metric: acc1}\n"
SIZES = {"food101": 400, "dtd": 200, "flowers102": 100}


def store(folder: Path, model: str, dataset: str, hits: int, **more: Any) -> None:
    """Store a classification of which the first images are hits; lists of samples differ by set."""
    size = SIZES[dataset]
    top5 = np.where(np.arange(size) < hits, 0, 1)[:, None]
    samples = {"labels": np.zeros(size, int), "top5": top5, "classes": np.array(["a", "b"])}
    hashes = {"sample_list": more.pop("sample_list", dataset)}
    more_of_model = more.pop("training", {})
    fields = {"dataset": dataset, "protocol": "cosmos", **more}
    provenance = {"hashes": hashes}
    named = {"spec": model, **more_of_model}
    store_result(folder, "cls", samples, model=named, provenance=provenance, **fields)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`best` and `near` differ on 3 of 400 images, `apart` on 20 more and 10 of 200."""
    folder = tmp_path_factory.mktemp("stored")
    for model, food, dtd in (("best", 300, 100), ("near", 297, 100), ("apart", 277, 90)):
        store(folder, model, "food101", food)
        store(folder, model, "dtd", dtd)
    store(folder, "lacks", "food101", 320)
    return folder


@pytest.fixture
def results(stored: Path, tmp_path: Path) -> Path:
    """Copies of these results beside a suite."""
    (tmp_path / "own.yaml").write_text(SUITE)
    return Path(shutil.copytree(stored, tmp_path / "results"))


def printed(capsys, folder: Path, form: str, *options: str) -> str:
    suite = ("--suite", str(folder.parent / "own.yaml"))
    with pytest.raises(SystemExit) as raised:
        main(["leaderboard", str(folder), "--format", form, *(options or suite)])
    assert raised.value.code == 0
    return capsys.readouterr().out


def table(text: str) -> list[list[str]]:
    """Rows of a suite's table, which is the first."""
    lines = text[text.index("### Suite own (%)") :].split("###")[1].splitlines()[4:]
    return [line.strip("| ").replace("\\", "").split(" | ") for line in lines if line[:1] == "|"]


def ends(cell: str) -> tuple[float, float, float]:
    """A number and the ends of its interval."""
    value, interval = cell.split(" ")
    above, _, below = interval.lstrip("±+").partition("/-")
    return float(value), float(value) - float(below or above), float(value) + float(above)


def values(row: list[str]) -> list[str]:
    return [cell.split(" ±")[0].split(" +")[0] for cell in row]


def test_means_ranks_and_p_values(results, capsys):
    text = printed(capsys, results, "md")
    best, near, apart, lacks = table(text)
    assert [values(row)[:3] for row in (best, near, apart)] == [
        ["best", "1-2", "62.5"],  # (0.75 + 0.5) / 2
        ["near", "1-2", "62.1"],
        ["apart", "3", "57.1"],
    ]
    assert "cannot be told apart" in text
    assert "covers 0: ranks 1 and 2 (best, near)." in text
    assert lacks[:5] == ["lacks", "-", "-", "1 of 2", "-"]
    common = [values(row)[5] for row in (best, near, apart, lacks)]
    assert common == ["75.0", "74.3", "69.3", "80.0"]
    assert "Not ranked: lacks lacks dtd (cosmos)." in text
    assert "Common members (1 of 2): food101 (cosmos)." in text
    # Normal theory: half of the root of both variances.
    half = 98 * np.sqrt(0.75 * 0.25 / 400 + 0.5 * 0.5 / 200)
    _, low, high = ends(best[2])
    assert (62.5 - low, high - 62.5) == pytest.approx((half, half), abs=0.4)
    # 3 more images of 400, whose number has a variance of 3 x (1 - 3 / 400).
    p_next = 2 * t.sf(3 / np.sqrt(3 * (1 - 3 / 400)), 199)
    assert float(best[4]) == pytest.approx(p_next, abs=0.01)
    assert (near[4], apart[4]) == ("&lt;1e-06", "-")
    assert "- p (next): the two-sided p-value of the paired difference from the next row" in text
    assert "P(best)" not in text


def test_every_form_has_the_table(results, capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, results, "csv"))))
    found = {(r["metric"], r["model"]): r for r in rows if r["task"] == "suite"}
    assert len(found) == 8
    mean, none, common = (
        found[key] for key in (("mean", "best"), ("mean", "lacks"), ("mean_of_common", "lacks"))
    )
    assert (float(mean["value"]), mean["members"], mean["rank_high"]) == (0.625, "2 of 2", "2")
    assert (none["value"], none["members"], none["p_next"]) == ("", "1 of 2", "")
    assert (float(common["value"]), common["members"]) == (0.8, "1 of 2")
    suite = json.loads(printed(capsys, results, "json"))["suite"]
    assert [one["dataset"] for one in suite["members"]] == ["food101", "dtd"]
    assert suite["models"][0]["mean"]["value"] == 0.625
    assert suite["models"][-1]["mean"] is None
    assert suite["models"][0]["ranks"] == [1, 2]
    texts = [one.text.strip() for one in Page(printed(capsys, results, "html")).elements]
    assert {"Suite own (%)", "62.5", "1 of 2"} <= set(texts)
    assert r"lacks & -- & -- & 1 of 2 & -- & 80.0" in printed(capsys, results, "tex")
    assert "Suite own (%)" in printed(capsys, results, "table")


def test_other_tables_stand_below_on_request(results, capsys):
    suite = ("--suite", str(results.parent / "own.yaml"))
    for form in ("md", "html"):
        plain = printed(capsys, results, form, "--ties", "auto")
        alone = printed(capsys, results, form)
        both = printed(capsys, results, form, *suite, "--members")
        assert ("Suite own" in plain, "Suite own" in alone, "Suite own" in both) == (0, 1, 1)
        title = "Classification ("
        assert (title in plain, title in alone, title in both) == (True, False, True)
        assert both.index("Suite own") < both.index(title)
    plain = printed(capsys, results, "csv", "--ties", "auto").splitlines()
    added = printed(capsys, results, "csv").splitlines()
    assert len(added) > len(plain)
    assert all(a.startswith(b) for a, b in zip(added, plain, strict=False))
    own = json.loads(printed(capsys, results, "json", "--ties", "auto"))
    assert own == json.loads(printed(capsys, results, "json"))["results"]


def test_members_of_the_same_images_are_resampled_together(tmp_path, capsys):
    """Two families of one list of samples know no more than one: the interval is as wide."""
    folder = tmp_path / "results"
    suite = SUITE.replace("[food101, dtd]", "[food101], clip-benchmark: [food101]")
    for same in ("food101", "others"):
        (tmp_path / "own.yaml").write_text(suite)
        store(folder, "it", "food101", 200)
        store(folder, "it", "food101", 200, protocol="clip-benchmark", sample_list=same)
        ((_, _, cell, *_),) = table(printed(capsys, folder, "md"))
        mean, low, high = ends(cell)
        half = 196 * np.sqrt(0.25 / 400) / (1 if same == "food101" else np.sqrt(2))
        assert (mean, high - low) == (50.0, pytest.approx(2 * half, abs=0.5))


def test_what_a_suite_lacks_of_its_source_counts_as_a_member(results, capsys):
    left_out = "left_out: {winogavil: it has no reader}\n"
    (results.parent / "own.yaml").write_text(SUITE + left_out)
    text = printed(capsys, results, "md")
    assert [row[3] for row in table(text)] == ["2 of 3", "2 of 3", "2 of 3", "1 of 3"]
    assert "- Mean: over 2 of 3 members, acc1 of food101 (cosmos), dtd (cosmos)." in text
    assert "- Left out: winogavil: it has no reader." in text
    suite = json.loads(printed(capsys, results, "json"))["suite"]
    assert suite["left_out"] == {"winogavil": "it has no reader"}


def test_sets_may_count_as_one_member(results, capsys):
    """Both sets of 0.5 and 0.75 are one: their mean, with the interval of a mean of both."""
    plain = table(printed(capsys, results, "md"))[0]
    as_one = "score: {metric: acc1, as_one: [[food101, dtd]]}\n"
    (results.parent / "own.yaml").write_text(SUITE.replace("score: {metric: acc1}\n", as_one))
    text = printed(capsys, results, "md")
    assert table(text)[0] == plain
    assert "- Counted in part, as several of them are one: food101 (cosmos), dtd (cosmos)." in text


def test_a_third_set_weighs_as_much_as_two_that_count_as_one(tmp_path, capsys):
    one = "score: {metric: acc1, as_one: [[food101, dtd]]}\n"
    (tmp_path / "own.yaml").write_text("datasets: {cosmos: [food101, dtd, flowers102]}\n" + one)
    for dataset, hits in (("food101", 400), ("dtd", 100), ("flowers102", 10)):
        store(tmp_path / "results", "it", dataset, hits)
    ((_, _, cell, *_),) = table(printed(capsys, tmp_path / "results", "md"))
    assert ends(cell)[0] == 42.5  # ((1 + 0.5) / 2 + 0.1) / 2


def test_published_means_stand_below_measured_ones(tmp_path, capsys):
    """SCLIP's figures of two sets, beside nothing that was measured, and beside a result."""
    sets = "datasets: {sclip: [voc20, ade20k]}\nscore: {}\n"
    (tmp_path / "own.yaml").write_text(sets)
    arguments = ("--published", "--suite", str(tmp_path / "own.yaml"))
    folder = tmp_path / "results"
    store(folder, "mine", "food101", 1)
    (row,) = table(printed(capsys, folder, "md", *arguments))
    # (81.54 + 16.45) / 2
    assert row == ["openclip:ViT-B-16/openai", "published", "-", "49.0", "2 of 2", "-"]
    text = printed(capsys, folder, "csv", *arguments)
    (line,) = (r for r in csv.DictReader(io.StringIO(text)) if r["task"] == "suite")
    assert (line["value"], line["low"], line["source"]) == ("0.48995", "", "published")
    assert line["url"].endswith("SCLIP/blob/b56bd3014b9e8a3ee3450bcfc53700a67d627b7a/README.md")
    found = json.loads(printed(capsys, folder, "json", *arguments))["suite"]["models"]
    assert [(one["source"], one["mean"]) for one in found] == [("published", {"value": 0.48995})]


def test_main_metrics_of_every_kind_have_a_mean_and_an_interval(tmp_path, capsys):
    """Two classes of 20 images, of which 10 and 15 are right; half of each class is in a group."""
    sets = ("wds/vtab/pets", "wds/wilds/iwildcam", "wds/wilds/fmow", "wds/fairness/dollar_street")
    text = f"datasets: {{datacomp: [{', '.join(sets)}], karpathy: [coco-karpathy]}}\nscore: {{}}\n"
    (tmp_path / "own.yaml").write_text(text)
    labels, images = np.repeat([0, 1], 20), np.arange(40)
    right = images % 20 < np.where(labels, 15, 10)
    top5 = np.stack([np.where(right, labels, 1 - labels), np.where(images % 4, 9, labels)], axis=1)
    metrics = np.array(["f1_macro", "worst_group_acc5"])
    groups = {"group": (images % 20) // 10, "groups": np.array(["early", "late"])}
    classes = np.array(list("abcdefghij"))
    samples = {"labels": labels, "top5": top5, "classes": classes, "metrics": metrics, **groups}
    where = {"protocol": "datacomp", "model": {"spec": "it"}}
    for name in sets:
        store_result(tmp_path / "results", "cls", samples, dataset=name, **where)
    ranks = {"image_to_text_rank": np.tile([1, 2], 20), "text_to_image_rank": np.tile([1, 2], 20)}
    where |= {"protocol": "karpathy", "dataset": "coco-karpathy"}
    store_result(tmp_path / "results", "retrieval", {**ranks, "image_of_text": images}, **where)
    # Recalls 10/20 and 15/20. F1 with 15 and 25 predictions. The late group has the first guess of
    # none and 5 of 10 right, and with the second guess images 12, 16 and 36 more.
    expected = [(1 / 2 + 3 / 4) / 2, (20 / 35 + 30 / 45) / 2, 5 / 20, 8 / 20, 1 / 2]
    ((_, _, cell, present, *_),) = table(printed(capsys, tmp_path / "results", "md"))
    mean, low, high = ends(cell)
    assert (f"{mean:.1f}", present) == (f"{100 * sum(expected) / 5:.1f}", "5 of 5")
    assert 0 < low < mean < high < 100


def test_lower_is_better_and_ranks_are_no_percent(tmp_path, capsys):
    folder = tmp_path / "results"
    text = SUITE.replace("food101, dtd", "coco-val2017").replace("acc1", "image_to_text_mean_rank")
    (tmp_path / "own.yaml").write_text(text)
    for model, rank in (("worse", 3), ("better", 2)):
        of_text = np.arange(50)
        ranks = {"image_to_text_rank": np.full(50, rank), "text_to_image_rank": of_text + 1}
        where = {"dataset": "coco-val2017", "protocol": "cosmos"}
        samples = {**ranks, "image_of_text": of_text}
        store_result(folder, "retrieval", samples, model={"spec": model}, **where)
    shown = printed(capsys, folder, "md")
    lines = shown[shown.index("### Suite own\n") :].splitlines()[4:6]
    assert lines[0].startswith("| better | 1 | 2.00 ±0.00 |")
    assert lines[1].startswith("| worse | 2 | 3.00 ±0.00 |")
    assert lines[0].endswith("| &lt;1e-06 |")
    unpaired = "lists of samples, or their content, differ or are not recorded: coco-val2017"
    assert f"Not paired, since {unpaired}" in shown


def test_part_of_the_samples_does_not_count(results, capsys):
    store(results, "best", "dtd", 100)
    (stored,) = results.glob("best__dtd__cosmos.json")
    stored.write_text(stored.read_text().replace('"acc1": 0.5', '"acc1": 0.75', 1))
    text = printed(capsys, results, "md")
    assert ["best", "-", "-", "1 of 2", "-"] in [row[:5] for row in table(text)]
    assert "Not counted: results of a part of the samples only, and edited ones." in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("score: {metric: acc1}", ""), "own.yaml has no `score`: add one to a file of yours"),
        (("metric: acc1", "metric: mIoU"), "food101 has no metric 'mIoU'; cls has "),
        (("metric: acc1", "metrics: {dts: acc1}"), "unknown member 'dts'; nearest: dtd"),
        (("metric: acc1", "protocols: [cosmo]"), "unknown member 'cosmo'; nearest: cosmos"),
        (("metric: acc1", "rule: sum"), "unknown key `score.rule`"),
        (("food101, dtd", "cifar10"), "no complete and unedited result of any member, which are"),
        (
            ("food101, dtd]}\nscore: {metric: acc1", "food101, coco-val2017]}\nscore: {metrics: "
             "{coco-val2017: image_to_text_mean_rank}"),
            "no mean of different kinds of metrics: acc1 of food101 (fraction, higher is better), "
            "image_to_text_mean_rank of coco-val2017 (rank, lower is better)",
        ),
    ],
)  # fmt: skip
def test_what_no_score_follows_from(change, message, results, capsys):
    path = results.parent / "own.yaml"
    path.write_text(SUITE.replace(*change))
    with pytest.raises(SystemExit) as raised:
        main(["leaderboard", str(results), "--suite", str(path)])
    assert raised.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_missing_samples_are_refused(results, capsys):
    next(results.glob("near__dtd*.npz")).unlink()
    with pytest.raises(SystemExit) as raised:
        main(["leaderboard", str(results), "--suite", str(results.parent / "own.yaml")])
    assert raised.value.code == 2
    assert "cannot be read" in capsys.readouterr().err


def trained(folder: Path, group: str, seed: int, food: int | None, dtd: int) -> None:
    facts = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])
    training = {**facts, "group": group, "seed": seed}
    number = sum(map(ord, group)) + 1000 * seed
    model = {"weights_sha256": f"{number:064x}", "training": training}
    for dataset, hits in (("food101", food), ("dtd", dtd)):
        if hits is not None:
            store(folder, f"{group}-{seed}", dataset, hits, training=model)


def test_groups_have_the_interval_of_seeds_and_images(tmp_path, capsys):
    """By hand: suite means of 0.70, 0.72 and 0.68 have a mean of 0.70 and a variance between
    trainings of 0.0004, of which the standard error is (0.0004 / 3) ** 0.5; the images that the
    trainings have in common add to that."""
    (tmp_path / "own.yaml").write_text(SUITE)
    folder = tmp_path / "results"
    for seed, (food, dtd) in enumerate([(300, 130), (308, 134), (292, 126)]):
        trained(folder, "clip", seed, food, dtd)
        trained(folder, "slips", seed, food - 60, dtd - 30)
    trained(folder, "alone", 0, 300, 130)
    trained(folder, "lacks", 0, 300, 130)
    trained(folder, "lacks", 1, None, 130)
    options = ("--suite", str(tmp_path / "own.yaml"), "--groups")
    text = printed(capsys, folder, "md", *options)
    rows = {row[0]: row for row in reversed(table(text))}  # not those of the table of groups
    assert [values(rows[name])[1:4:2] for name in ("clip", "alone", "slips", "lacks")] == [
        *(["3", "70.0"], ["1", "70.0"], ["3", "55.0"]),
        ["2", "-"],
    ]
    assert rows["slips"][2] == "3"
    assert rows["lacks"][4] == "1 of 2"
    assert "Not ranked: lacks lacks food101 (cosmos)." in text
    found = json.loads(printed(capsys, folder, "json", *options))["suite"]["models"]
    clip = next(one for one in found if one["model"] == "clip")
    # Of images, of which nearly all is shared, since hits are the first images of all trainings.
    images = (0.75 * 0.25 / 400 + 0.65 * 0.35 / 200) / 4
    assert clip["trainings"] == 3
    assert clip["mean"]["value"] == pytest.approx(0.7)
    seeds = 0.0004 / 3
    of_both = (seeds * t.ppf(0.975, 2) + images * t.ppf(0.975, 199)) / (seeds + images)
    half = (clip["mean"]["high"] - clip["mean"]["low"]) / 2
    assert half == pytest.approx(of_both * (seeds + images) ** 0.5, rel=0.05)
    assert clip["mean"]["method"] == "Satterthwaite and Cochran"
    assert [0 <= one["p_next"] <= 1 for one in found if one["p_next"] is not None] == [True] * 2
    lines = list(csv.DictReader(io.StringIO(printed(capsys, folder, "csv", *options))))
    suite = [one for one in lines if one["task"] == "suite" and one["model"] == "clip"]
    assert (suite[0]["metric"], suite[0]["trainings"]) == ("mean", "3")
    assert float(suite[0]["p_next"]) == pytest.approx(clip["p_next"])
    for form in ("tex", "html", "table"):
        assert "Suite own" in printed(capsys, folder, form, *options)


def test_intervals_end_at_what_a_metric_can_be(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(SUITE)
    folder = tmp_path / "results"
    for seed, (food, dtd) in enumerate([(400, 200), (80, 40)]):
        trained(folder, "clip", seed, food, dtd)
    options = ("--suite", str(tmp_path / "own.yaml"), "--groups")
    (clip,) = json.loads(printed(capsys, folder, "json", *options))["suite"]["models"]
    # Not 0.6 -+ 12.7 x 0.4, with Student's t of one degree of freedom.
    assert [clip["mean"][name] for name in ("value", "low", "high")] == [pytest.approx(0.6), 0, 1]


def test_replicates_of_a_suite_are_distinct(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(SUITE)
    trained(tmp_path / "results", "clip", 0, 300, 130)
    facts = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])
    again = {"training": {**facts, "group": "clip", "seed": 0}}
    store(tmp_path / "results", "other", "food101", 300, training=again)
    options = ("--suite", str(tmp_path / "own.yaml"), "--groups")
    with pytest.raises(SystemExit) as raised:
        main(["leaderboard", str(tmp_path / "results"), *options])
    assert raised.value.code == 2
    assert "belong to one training" in capsys.readouterr().err
