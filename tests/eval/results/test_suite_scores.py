"""The score of a suite in the forms of `leaderboard`, from result files."""

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


def store(
    folder: Path,
    model: str,
    dataset: str,
    n_right: int,
    *,
    protocol: str = "cosmos",
    sample_list: str | None = None,
    model_facts: dict[str, Any] | None = None,
) -> None:
    """Store a classification in which the first `n_right` images are right.

    The hash of the list of samples is the name of the data set, unless another one is stated.
    """
    size = SIZES[dataset]
    predictions = np.where(np.arange(size) < n_right, 0, 1)[:, None]
    samples = {"labels": np.zeros(size, int), "top5": predictions, "classes": np.array(["a", "b"])}
    store_result(
        folder,
        "cls",
        samples,
        dataset=dataset,
        protocol=protocol,
        model={"spec": model, **(model_facts or {})},
        provenance={"hashes": {"sample_list": sample_list or dataset}},
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store results of four models, of which `lacks` was not measured on DTD.

    `best` and `near` differ on 3 of 400 images of Food-101. `apart` differs from `near` on 20 more
    of them, and on 10 of 200 images of DTD.
    """
    folder = tmp_path_factory.mktemp("stored")
    for model, n_right_of_food, n_right_of_dtd in (
        ("best", 300, 100),
        ("near", 297, 100),
        ("apart", 277, 90),
    ):
        store(folder, model, "food101", n_right_of_food)
        store(folder, model, "dtd", n_right_of_dtd)
    store(folder, "lacks", "food101", 320)
    return folder


@pytest.fixture
def results(stored: Path, tmp_path: Path) -> Path:
    """Copy these results to a folder beside the file of a suite."""
    (tmp_path / "own.yaml").write_text(SUITE)
    return Path(shutil.copytree(stored, tmp_path / "results"))


def printed(capsys, folder: Path, form: str, *options: str) -> str:
    """Return what `leaderboard` prints, by default for the suite beside the folder of results."""
    suite = ("--suite", str(folder.parent / "own.yaml"))
    with pytest.raises(SystemExit) as raised:
        main(["leaderboard", str(folder), "--format", form, *(options or suite)])
    assert raised.value.code == 0
    return capsys.readouterr().out


def printed_rows(capsys, folder: Path, *options: str) -> list[dict[str, str]]:
    """Return the rows of the suite in the CSV file."""
    lines = csv.DictReader(io.StringIO(printed(capsys, folder, "csv", *options)))
    return [line for line in lines if line["task"] == "suite"]


def table(text: str) -> list[dict[str, str]]:
    """Return the rows of the table of a suite in Markdown, by the headings of its columns."""
    section = text[text.index("### Suite own (%)") :].split("###")[1]
    table_lines = [line for line in section.splitlines() if line.startswith("|")]
    headings, _, *rows = [line.strip("| ").replace("\\", "").split(" | ") for line in table_lines]
    return [dict(zip(headings, row, strict=True)) for row in rows]


def value_and_ends(cell: str) -> tuple[float, float, float]:
    """Return a number and the low and the high end of its interval."""
    value, interval = cell.split(" ")
    above, _, below = interval.lstrip("±+").partition("/-")
    return float(value), float(value) - float(below or above), float(value) + float(above)


def without_interval(cell: str) -> str:
    return cell.split(" ±")[0].split(" +")[0]


def test_means_ranks_and_p_values(results, capsys):
    text = printed(capsys, results, "md")
    best, near, apart, lacks = table(text)
    ranked = [(row["model"], row["rank"], without_interval(row["mean"])) for row in table(text)]
    assert ranked == [
        ("best", "1-2", "62.5"),  # (0.75 + 0.5) / 2
        ("near", "1-2", "62.1"),
        ("apart", "3", "57.1"),
        ("lacks", "-", "-"),
    ]
    assert "cannot be told apart" in text
    assert "covers 0: ranks 1 and 2 (best, near)." in text
    assert (lacks["members"], lacks["p (next)"]) == ("1 of 2", "-")
    means_of_common_members = [
        without_interval(row["mean over common members"]) for row in table(text)
    ]
    assert means_of_common_members == ["75.0", "74.3", "69.3", "80.0"]
    assert "Not ranked: lacks lacks dtd (cosmos)." in text
    assert "Common members (1 of 2): food101 (cosmos)." in text
    # By normal theory, 1.96 times the standard error of the mean of both, in percent.
    half_width = 98 * np.sqrt(0.75 * 0.25 / 400 + 0.5 * 0.5 / 200)
    _, low, high = value_and_ends(best["mean"])
    assert (62.5 - low, high - 62.5) == pytest.approx((half_width, half_width), abs=0.4)
    # 3 more images of 400, whose number has a variance of 3 x (1 - 3 / 400).
    p_next = 2 * t.sf(3 / np.sqrt(3 * (1 - 3 / 400)), 199)
    assert float(best["p (next)"]) == pytest.approx(p_next, abs=0.01)
    assert (near["p (next)"], apart["p (next)"]) == ("&lt;1e-06", "-")
    assert "- p (next): the two-sided p-value of the paired difference from the next row" in text
    assert "P(best)" not in text


def test_every_form_has_the_table(results, capsys):
    rows = {(row["metric"], row["model"]): row for row in printed_rows(capsys, results)}
    assert len(rows) == 8
    best = rows["mean", "best"]
    assert (float(best["value"]), best["members"], best["rank_high"]) == (0.625, "2 of 2", "2")
    lacks = rows["mean", "lacks"]
    assert (lacks["value"], lacks["members"], lacks["p_next"]) == ("", "1 of 2", "")
    common = rows["mean_of_common", "lacks"]
    assert (float(common["value"]), common["members"]) == (0.8, "1 of 2")
    suite = json.loads(printed(capsys, results, "json"))["suite"]
    assert [member["dataset"] for member in suite["members"]] == ["food101", "dtd"]
    assert suite["models"][0]["mean"]["value"] == 0.625
    assert suite["models"][-1]["mean"] is None
    assert suite["models"][0]["ranks"] == [1, 2]
    elements = Page(printed(capsys, results, "html")).elements
    assert {"Suite own (%)", "62.5", "1 of 2"} <= {element.text.strip() for element in elements}
    assert r"lacks & -- & -- & 1 of 2 & -- & 80.0" in printed(capsys, results, "tex")
    assert "Suite own (%)" in printed(capsys, results, "table")


def test_other_tables_stand_below_on_request(results, capsys):
    suite = ("--suite", str(results.parent / "own.yaml"))
    title = "Classification ("
    for form in ("md", "html"):
        without_suite = printed(capsys, results, form, "--ties", "auto")
        only_suite = printed(capsys, results, form)
        suite_and_members = printed(capsys, results, form, *suite, "--members")
        assert "Suite own" not in without_suite
        assert "Suite own" in only_suite
        assert title in without_suite
        assert title not in only_suite
        assert suite_and_members.index("Suite own") < suite_and_members.index(title)
    lines = printed(capsys, results, "csv", "--ties", "auto").splitlines()
    lines_with_suite = printed(capsys, results, "csv").splitlines()
    assert len(lines_with_suite) > len(lines)
    for with_suite, without_suite in zip(lines_with_suite, lines, strict=False):
        assert with_suite.startswith(without_suite)
    json_without_suite = json.loads(printed(capsys, results, "json", "--ties", "auto"))
    assert json_without_suite == json.loads(printed(capsys, results, "json"))["results"]


def test_members_of_the_same_images_are_resampled_together(tmp_path, capsys):
    """Two protocols on one list of samples tell as much as one: the interval is as wide."""
    folder = tmp_path / "results"
    suite = SUITE.replace("[food101, dtd]", "[food101], clip-benchmark: [food101]")
    for sample_list, n_independent in (("food101", 1), ("others", 2)):
        (tmp_path / "own.yaml").write_text(suite)
        store(folder, "it", "food101", 200)
        store(folder, "it", "food101", 200, protocol="clip-benchmark", sample_list=sample_list)
        (row,) = table(printed(capsys, folder, "md"))
        mean, low, high = value_and_ends(row["mean"])
        half_width = 196 * np.sqrt(0.25 / 400 / n_independent)
        assert (mean, high - low) == (50.0, pytest.approx(2 * half_width, abs=0.5))


def test_a_set_that_a_suite_leaves_out_counts_as_a_member(results, capsys):
    left_out = "left_out: {winogavil: it has no reader}\n"
    (results.parent / "own.yaml").write_text(SUITE + left_out)
    text = printed(capsys, results, "md")
    assert [row["members"] for row in table(text)] == ["2 of 3", "2 of 3", "2 of 3", "1 of 3"]
    assert "- Mean: over 2 of 3 members, acc1 of food101 (cosmos), dtd (cosmos)." in text
    assert "- Left out: winogavil: it has no reader." in text
    suite = json.loads(printed(capsys, results, "json"))["suite"]
    assert suite["left_out"] == {"winogavil": "it has no reader"}


def test_sets_may_count_as_one_member(results, capsys):
    """Both sets of 0.5 and 0.75 are one: their mean, with the interval of a mean of both."""
    row_of_two_members = table(printed(capsys, results, "md"))[0]
    as_one = "score: {metric: acc1, as_one: [[food101, dtd]]}\n"
    (results.parent / "own.yaml").write_text(SUITE.replace("score: {metric: acc1}\n", as_one))
    text = printed(capsys, results, "md")
    assert table(text)[0] == row_of_two_members
    assert "- Counted in part, as several of them are one: food101 (cosmos), dtd (cosmos)." in text


def test_a_third_set_weighs_as_much_as_two_that_count_as_one(tmp_path, capsys):
    datasets = "datasets: {cosmos: [food101, dtd, flowers102]}\n"
    as_one = "score: {metric: acc1, as_one: [[food101, dtd]]}\n"
    (tmp_path / "own.yaml").write_text(datasets + as_one)
    for dataset, n_right in (("food101", 400), ("dtd", 100), ("flowers102", 10)):
        store(tmp_path / "results", "it", dataset, n_right)
    (row,) = table(printed(capsys, tmp_path / "results", "md"))
    mean, _, _ = value_and_ends(row["mean"])
    assert mean == 42.5  # ((1 + 0.5) / 2 + 0.1) / 2


def test_published_means_stand_below_measured_ones(tmp_path, capsys):
    """SCLIP published figures of both sets of the suite, on which nothing was measured."""
    sets = "datasets: {sclip: [voc20, ade20k]}\nscore: {}\n"
    (tmp_path / "own.yaml").write_text(sets)
    arguments = ("--published", "--suite", str(tmp_path / "own.yaml"))
    folder = tmp_path / "results"
    store(folder, "mine", "food101", 1)
    (row,) = table(printed(capsys, folder, "md", *arguments))
    # (81.54 + 16.45) / 2
    assert list(row.values()) == [
        *("openclip:ViT-B-16/openai", "published", "-", "49.0", "2 of 2", "-"),
    ]
    (line,) = printed_rows(capsys, folder, *arguments)
    assert (line["value"], line["low"], line["source"]) == ("0.48995", "", "published")
    assert line["url"].endswith("SCLIP/blob/b56bd3014b9e8a3ee3450bcfc53700a67d627b7a/README.md")
    (model,) = json.loads(printed(capsys, folder, "json", *arguments))["suite"]["models"]
    assert (model["source"], model["mean"]) == ("published", {"value": 0.48995})


def test_main_metrics_of_every_kind_have_a_mean_and_an_interval(tmp_path, capsys):
    """Two classes of 20 images, of which 10 and 15 are right; half of each class is in a group."""
    sets = ("wds/vtab/pets", "wds/wilds/iwildcam", "wds/wilds/fmow", "wds/fairness/dollar_street")
    text = f"datasets: {{datacomp: [{', '.join(sets)}], karpathy: [coco-karpathy]}}\nscore: {{}}\n"
    (tmp_path / "own.yaml").write_text(text)
    labels, images = np.repeat([0, 1], 20), np.arange(40)
    is_right = images % 20 < np.where(labels, 15, 10)
    first_guesses = np.where(is_right, labels, 1 - labels)
    second_guesses = np.where(images % 4, 9, labels)  # right on every fourth image
    samples = {
        "labels": labels,
        "top5": np.stack([first_guesses, second_guesses], axis=1),
        "classes": np.array(list("abcdefghij")),
        "metrics": np.array(["f1_macro", "worst_group_acc5"]),
        "group": (images % 20) // 10,
        "groups": np.array(["early", "late"]),
    }
    folder = tmp_path / "results"
    for name in sets:
        store_result(
            folder, "cls", samples, dataset=name, protocol="datacomp", model={"spec": "it"}
        )
    ranks = {
        "image_to_text_rank": np.tile([1, 2], 20),
        "text_to_image_rank": np.tile([1, 2], 20),
        "image_of_text": images,
    }
    store_result(
        folder,
        "retrieval",
        ranks,
        dataset="coco-karpathy",
        protocol="karpathy",
        model={"spec": "it"},
    )
    # Recalls 10/20 and 15/20. F1 with 15 and 25 predictions. The late group has the first guess of
    # none and 5 of 10 right, and with the second guess images 12, 16 and 36 more.
    expected = [(1 / 2 + 3 / 4) / 2, (20 / 35 + 30 / 45) / 2, 5 / 20, 8 / 20, 1 / 2]
    (row,) = table(printed(capsys, folder, "md"))
    mean, low, high = value_and_ends(row["mean"])
    assert f"{mean:.1f}" == f"{100 * sum(expected) / 5:.1f}"
    assert row["members"] == "5 of 5"
    assert 0 < low < mean < high < 100


def test_lower_ranks_are_better_and_are_not_percentages(tmp_path, capsys):
    folder = tmp_path / "results"
    text = SUITE.replace("food101, dtd", "coco-val2017").replace("acc1", "image_to_text_mean_rank")
    (tmp_path / "own.yaml").write_text(text)
    for model, rank in (("worse", 3), ("better", 2)):
        samples = {
            "image_to_text_rank": np.full(50, rank),
            "text_to_image_rank": np.arange(50) + 1,
            "image_of_text": np.arange(50),
        }
        store_result(
            folder,
            "retrieval",
            samples,
            dataset="coco-val2017",
            protocol="cosmos",
            model={"spec": model},
        )
    text = printed(capsys, folder, "md")
    first_row, second_row = text[text.index("### Suite own\n") :].splitlines()[4:6]
    assert first_row.startswith("| better | 1 | 2.00 ±0.00 |")
    assert second_row.startswith("| worse | 2 | 3.00 ±0.00 |")
    assert first_row.endswith("| &lt;1e-06 |")
    unpaired = "lists of samples, or their content, differ or are not recorded: coco-val2017"
    assert f"Not paired, since {unpaired}" in text


def test_edited_results_do_not_count(results, capsys):
    store(results, "best", "dtd", 100)
    (path,) = results.glob("best__dtd__cosmos.json")
    path.write_text(path.read_text().replace('"acc1": 0.5', '"acc1": 0.75', 1))
    text = printed(capsys, results, "md")
    best = next(row for row in table(text) if row["model"] == "best")
    assert [best[heading] for heading in ("rank", "mean", "members", "p (next)")] == [
        *("-", "-", "1 of 2", "-"),
    ]
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
def test_a_suite_without_a_score_is_refused(change, message, results, capsys):
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


def store_training(
    folder: Path, group: str, seed: int, n_right_of_food: int | None, n_right_of_dtd: int
) -> None:
    """Store the results of one training of a group on both sets, or on DTD only."""
    facts = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])
    number = sum(map(ord, group)) + 1000 * seed  # another one for every training
    model_facts = {
        "weights_sha256": f"{number:064x}",
        "training": {**facts, "group": group, "seed": seed},
    }
    for dataset, n_right in (("food101", n_right_of_food), ("dtd", n_right_of_dtd)):
        if n_right is not None:
            store(folder, f"{group}-{seed}", dataset, n_right, model_facts=model_facts)


def test_groups_have_the_interval_of_seeds_and_images(tmp_path, capsys):
    """By hand: suite means of 0.70, 0.72 and 0.68 have a mean of 0.70 and a variance between
    trainings of 0.0004, of which the standard error is (0.0004 / 3) ** 0.5; the images that the
    trainings have in common add to that."""
    (tmp_path / "own.yaml").write_text(SUITE)
    folder = tmp_path / "results"
    for seed, (food, dtd) in enumerate([(300, 130), (308, 134), (292, 126)]):
        store_training(folder, "clip", seed, food, dtd)
        store_training(folder, "slips", seed, food - 60, dtd - 30)
    store_training(folder, "alone", 0, 300, 130)
    store_training(folder, "lacks", 0, 300, 130)
    store_training(folder, "lacks", 1, None, 130)
    options = ("--suite", str(tmp_path / "own.yaml"), "--groups")
    text = printed(capsys, folder, "md", *options)
    rows = {row["group"]: row for row in table(text)}
    trainings_and_means = {
        group: (row["trainings"], without_interval(row["mean"])) for group, row in rows.items()
    }
    assert trainings_and_means == {
        "clip": ("3", "70.0"),
        "alone": ("1", "70.0"),
        "slips": ("3", "55.0"),
        "lacks": ("2", "-"),
    }
    assert rows["slips"]["rank"] == "3"
    assert rows["lacks"]["members"] == "1 of 2"
    assert "Not ranked: lacks lacks food101 (cosmos)." in text
    groups = json.loads(printed(capsys, folder, "json", *options))["suite"]["models"]
    clip = next(group for group in groups if group["model"] == "clip")
    assert clip["trainings"] == 3
    assert clip["mean"]["value"] == pytest.approx(0.7)
    # Nearly all of the variance of images is shared: all trainings are right on the first images.
    variance_of_images = (0.75 * 0.25 / 400 + 0.65 * 0.35 / 200) / 4
    variance_of_seeds = 0.0004 / 3
    variance = variance_of_seeds + variance_of_images
    quantile = (
        variance_of_seeds * t.ppf(0.975, 2) + variance_of_images * t.ppf(0.975, 199)
    ) / variance
    half_width = (clip["mean"]["high"] - clip["mean"]["low"]) / 2
    assert half_width == pytest.approx(quantile * variance**0.5, rel=0.05)
    assert clip["mean"]["method"] == "Satterthwaite and Cochran"
    p_values = [group["p_next"] for group in groups if group["p_next"] is not None]
    assert len(p_values) == 2
    assert all(0 <= p_value <= 1 for p_value in p_values)
    rows_of_clip = [row for row in printed_rows(capsys, folder, *options) if row["model"] == "clip"]
    assert (rows_of_clip[0]["metric"], rows_of_clip[0]["trainings"]) == ("mean", "3")
    assert float(rows_of_clip[0]["p_next"]) == pytest.approx(clip["p_next"])
    for form in ("tex", "html", "table"):
        assert "Suite own" in printed(capsys, folder, form, *options)


def test_intervals_end_at_the_bounds_of_the_metric(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(SUITE)
    folder = tmp_path / "results"
    for seed, (food, dtd) in enumerate([(400, 200), (80, 40)]):
        store_training(folder, "clip", seed, food, dtd)
    options = ("--suite", str(tmp_path / "own.yaml"), "--groups")
    (clip,) = json.loads(printed(capsys, folder, "json", *options))["suite"]["models"]
    # Not 0.6 -+ 12.7 x 0.4, with Student's t of one degree of freedom.
    assert [clip["mean"][name] for name in ("value", "low", "high")] == [pytest.approx(0.6), 0, 1]


def test_one_training_under_two_names_is_refused(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(SUITE)
    store_training(tmp_path / "results", "clip", 0, 300, 130)
    facts = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])
    same_training = {"training": {**facts, "group": "clip", "seed": 0}}
    store(tmp_path / "results", "other", "food101", 300, model_facts=same_training)
    options = ("--suite", str(tmp_path / "own.yaml"), "--groups")
    with pytest.raises(SystemExit) as raised:
        main(["leaderboard", str(tmp_path / "results"), *options])
    assert raised.value.code == 2
    assert "belong to one training" in capsys.readouterr().err
