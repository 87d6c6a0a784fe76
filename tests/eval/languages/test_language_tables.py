"""Tables of languages: the lowest ones of a suite, a row per language, and OpenCLIP's rows."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from support.results import store_result
from support.rows import make_row

from cosmos_eval.data.folders import fingerprint
from cosmos_eval.protocols.languages import language_of, language_sets
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.leaderboard.entries import (
    entries_of,
    entries_of_rows,
    published_beside,
    read_published_entries,
)
from cosmos_eval.results.leaderboard.languages import language_tables, without_languages
from cosmos_eval.results.leaderboard.suite import suite_score
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.table import USUAL
from cosmos_eval.runner.suites import read_score
from cosmos_eval.stats.retrieval import RetrievalRanks
from cosmos_eval.types import UsageError

TABLE = "openclip_multilingual.csv"
COMMIT = "48633c714de0b1b9179b1a03e8777c345ea0d5bb"
# Cells of openclip_multilingual_retrieval_results.csv at that commit. Its image retrieval is from
# text to image.
CELLS = {
    ("nllb-clip-large-siglip mrl", "xm3600-de text_to_image_R@1"): "0.7569",
    ("ViT-B-16-SigLIP-i18n-256 webli", "xm3600-quz image_to_text_R@10"): "0.1228",
    ("xlm-roberta-base-ViT-B-32 laion5b_s13b_b90k", "xtd10-jp text_to_image_R@5"): "0.783",
    ("ViT-B-32 openai", "xm3600-te image_to_text_R@1"): "0.0003",
    ("ViT-L-14 openai", "xtd10-en image_to_text_R@1"): "0.628",
    ("RN50-quickgelu cc12m", "xm3600-fil text_to_image_R@5"): "0.0711",
    ("ViT-B-32 datacomp_s_s13m_b4k", "xtd10-zh image_to_text_R@10"): "0.011",
    ("ViT-SO400M-14-SigLIP webli", "xm3600-no image_to_text_R@1"): "0.2603",
}
# Its columns `crossmodal3600 ... avg` and `multilingual_mscoco_captions ... avg` of R@1: text to
# image and image to text of the one, then of the other.
AVERAGES = {
    "openclip:nllb-clip-large-siglip/mrl": (0.6079, 0.5741, 0.6997, 0.6433),
    "openclip:ViT-B-32/openai": (0.0413, 0.0658, 0.1115, 0.1532),
    "openclip:xlm-roberta-large-ViT-H-14/frozen_laion5b_s13b_b90k": (
        *(0.5022, 0.5338),
        *(0.6456, 0.6445),
    ),
}
RECALLS = ("image_to_text_R@1", "text_to_image_R@1")


def lines() -> list[dict[str, str]]:
    text = files("cosmos_eval.protocols").joinpath("published", TABLE).read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_the_published_table():
    by_row = {line["row"]: line for line in lines()}
    assert len(by_row) == len({line["model"] for line in lines()}) == 123
    assert {cell: by_row[cell[0]][cell[1]] for cell in CELLS} == CELLS
    columns = set(lines()[0]) - {"model", "row", "mean"}
    expected = set()
    for name in ("xm3600", "xtd10"):
        for dataset in language_sets()[name]:
            for direction in ("image_to_text", "text_to_image"):
                expected |= {f"{dataset} {direction}_R@{k}" for k in (1, 5, 10)}
    assert columns == expected
    # Its own mean, `avg`, is over all of these numbers.
    for line in lines():
        mean = np.mean([float(line[column]) for column in columns])
        assert mean == pytest.approx(float(line["mean"]), abs=5.1e-5)


BABEL_COMMIT = "317c49896f04bc61d0c7a5dfc6fd4e3b0d8a9430"
# Accuracies with the prompts `nllb_dist13b_prompts` in results/babel-imagenet of Babel-ImageNet.
BABEL = {
    ("openclip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "de"): 0.47577235772357723,
    ("openclip:ViT-B-16-SigLIP-i18n-256/webli", "de"): 0.6710027100271003,
    ("openclip:nllb-clip-large-siglip/v1", "de"): 0.4443360433604336,
    ("M-CLIP/XLM-Roberta-Large-Vit-L-14", "de"): 0.46387533875338754,
}


def test_published_babel_imagenet():
    values = {}
    for entry in read_published_entries():
        language = language_of(entry.dataset)
        if language is not None and language.language_set == "babel-imagenet":
            assert (entry.task, entry.protocol) == ("cls", "clip-benchmark")
            assert BABEL_COMMIT in entry.url
            values[entry.model, language.language] = entry.metrics["acc1"]
    assert len(values) == 12 * 90
    for key, accuracy in BABEL.items():
        assert values[key] == pytest.approx(accuracy, abs=5.1e-5)


def test_published_entries():
    entries = [
        entry
        for entry in read_published_entries()
        if entry.dataset.startswith(("xm3600-", "xtd10-"))
    ]
    assert len(entries) == 123 * 47
    assert {(e.task, e.protocol, e.source) for e in entries} == {
        ("retrieval", "clip-benchmark", "published")
    }
    assert {COMMIT in entry.url for entry in entries} == {True}
    shown = published_beside(entries_of_rows([make_row(dataset="xtd10-de", task="retrieval")]))
    assert {e.dataset for e in shown if language_of(e.dataset)} == {"xtd10-de"}


def test_published_means_of_the_suite():
    """The mean over 47 languages, from the source's own means over the languages of each set."""
    score = suite_score(read_score("multilingual"), read_published_entries())
    means = {row.model: row.mean.value for row in score.rows if row.mean}
    assert len(means) == 123
    for model, (*of_xm3600, a, b) in AVERAGES.items():
        expected = (36 * sum(of_xm3600) + 11 * (a + b)) / 94
        assert means[model] == pytest.approx(expected, abs=5.1e-5)
    assert score.rows[0].model == "openclip:nllb-clip-large-siglip/mrl"
    table = score.table(USUAL)
    column = [head.title for head in table.heads].index("lowest languages")
    # quz: 0.2239 and 0.2267; mi: 0.2919 and 0.2733; te: 0.4233 and 0.395.
    assert table.rows[0][column].text == "quz 22.5, mi 28.3, te 40.9"


N = 40
LANGUAGES = ("de", "en", "zh")


def ranks_of(hits: np.ndarray) -> np.ndarray:
    """Rank 1 for hits, and 2 for all others."""
    return np.where(hits, 1, 2)


def write_results(folder: Path, datasets: tuple[str, ...], *, same_hits: bool) -> None:
    """Store results of two models on languages of the same images."""
    generator = np.random.default_rng(4)
    for model in ("a", "b"):
        hits = generator.random(N) < 0.5
        for number, dataset in enumerate(datasets):
            if not same_hits:
                hits = generator.random(N) < 0.8 - 0.2 * number
            ranks = RetrievalRanks(ranks_of(hits), ranks_of(hits))
            samples = {
                "image_to_text_rank": ranks[0],
                "text_to_image_rank": ranks[1],
                "image_of_text": np.arange(N),
                "cut_texts": np.zeros(N, bool),
            }
            hashes = {"sample_list": f"{number}" * 64, "content": "c" * 64}
            store_result(
                folder,
                "retrieval",
                samples,
                dataset=dataset,
                protocol="clip-benchmark",
                n_samples=N,
                model={"spec": f"openclip:ViT-B-32/{model}"},
                provenance={"hashes": hashes},
            )


def test_rows_are_languages_and_columns_are_models(tmp_path, command):
    datasets = tuple(f"xtd10-{language}" for language in LANGUAGES)
    write_results(tmp_path, datasets, same_hits=False)
    entries = entries_of(read_checked(sorted(tmp_path.glob("*.json"))))
    (table,) = language_tables(entries)
    assert without_languages(entries, [table]) == []
    assert (table.language_set, set(table.languages)) == ("xtd10", set(LANGUAGES))
    by_key = {(entry.dataset[6:], entry.model): entry for entry in entries}
    for key, entry in by_key.items():
        assert table.values[key] == pytest.approx(sum(entry.metrics[m] for m in RECALLS) / 2)
    # The lowest mean over the models comes first.
    means = {
        x: np.mean([table.values[x, model] for model in table.models]) for x in table.languages
    }
    assert list(table.languages) == sorted(means, key=means.__getitem__)
    for model in table.models:
        mean = np.mean([table.values[language, model] for language in LANGUAGES])
        assert table.mean(model) == pytest.approx(mean)

    # A single language is a column like any other data set.
    alone = [entry for entry in entries if entry.dataset == "xtd10-de"]
    assert language_tables(alone) == []
    assert without_languages(alone, []) == alone

    shown = command("leaderboard", str(tmp_path)).out
    assert "Languages of xtd10 (clip-benchmark): mean of image_to_text_R@1 and" in shown
    rows = [line.split() for line in shown.splitlines()]
    expected = [
        [language, *(f"{100 * table.values[language, m]:.1f}" for m in table.models)]
        for language in table.languages
    ]
    assert [row for row in rows if row and row[0] in LANGUAGES] == expected


SUITE = "datasets: {clip-benchmark: [xtd10-de, xtd10-en, xtd10-zh]}\nscore: {}\n"


def test_languages_of_the_same_images_depend_on_each_other(tmp_path):
    """Three languages with equal answers are no more evidence than one of them."""
    datasets = tuple(f"xtd10-{language}" for language in LANGUAGES)
    write_results(tmp_path / "r", datasets, same_hits=True)
    results = read_checked(sorted((tmp_path / "r").glob("*.json")))
    widths = []
    for names in (datasets, datasets[:1]):
        path = tmp_path / f"{len(names)}.yaml"
        path.write_text(f"datasets: {{clip-benchmark: [{', '.join(names)}]}}\nscore: {{}}\n")
        score = suite_score(read_score(str(path)), entries_of(results), read_samples)
        interval = score.rows[0].mean.interval
        widths.append(interval.high - interval.low)
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)
    record = json.loads(json.dumps(score.record()))
    assert record["models"][0]["languages"] == {
        "xtd10-de": pytest.approx(record["models"][0]["mean"]["value"])
    }


def write_babel_result(
    folder: Path, model: str, language: str, images: range, content: str
) -> None:
    """Store a result in a language of images whose numbers decide whether the answer is right."""
    numbers = np.array(images)
    names = [f"{number:04}.jpg" for number in images]
    store_result(
        folder,
        "cls",
        {
            "labels": numbers % 2,
            "top5": np.stack([(numbers % 2 + numbers // 2) % 2] * 2, axis=1),
            "classes": np.array(["cat", "dog"]),
            "name": np.array(names),
        },
        dataset=f"babel-imagenet-{language}",
        protocol="clip-benchmark",
        n_samples=len(images),
        model={"spec": f"openclip:ViT-B-32/{model}"},
        provenance={"hashes": {"sample_list": fingerprint(names), "content": content * 64}},
    )


def babel_half_width(folder: Path, languages: str) -> float:
    """The half width of the interval of the first model's mean over languages."""
    path = folder / f"{languages.replace(' ', '-')}.yaml"
    datasets = ", ".join(f"babel-imagenet-{language}" for language in languages.split())
    path.write_text(f"datasets: {{clip-benchmark: [{datasets}]}}\nscore: {{}}\n")
    entries = entries_of(read_checked(sorted(folder.glob("*.json"))))
    interval = suite_score(read_score(str(path)), entries).rows[0].mean.interval
    return (interval.high - interval.low) / 2


def test_languages_that_share_a_part_of_their_images_depend_on_them(tmp_path):
    """German has the images 0 to 399, French 100 to 499, Italian 500 to 899, with equal answers."""
    write_babel_result(tmp_path, "a", "de", range(400), "1")
    write_babel_result(tmp_path, "a", "fr", range(100, 500), "2")
    write_babel_result(tmp_path, "a", "it", range(500, 900), "3")
    # Half of the answers are right. Each image of one language counts 1 / 800, of both 2 / 800.
    overlapping = np.sqrt(0.25 * (200 / 800**2 + 300 * 4 / 800**2))
    disjoint = np.sqrt(0.25 / 800)
    quantile = 1.966  # of Student's distribution with 399 degrees of freedom
    assert babel_half_width(tmp_path, "de fr") == pytest.approx(quantile * overlapping, rel=0.07)
    assert babel_half_width(tmp_path, "de it") == pytest.approx(quantile * disjoint, rel=0.07)


def test_languages_measured_on_other_images_of_the_same_names_are_not_paired(tmp_path):
    for model, contents in (("a", "12"), ("b", "32")):
        for language, content in zip(("de", "fr"), contents, strict=True):
            write_babel_result(tmp_path, model, language, range(400), content)
    path = tmp_path / "suite.yaml"
    path.write_text("datasets: {clip-benchmark: [babel-imagenet-de]}\nscore: {}\n")
    entries = entries_of(read_checked(sorted(tmp_path.glob("*.json"))))
    score = suite_score(read_score(str(path)), entries)
    # Equal answers of paired models would have no difference, and p = 1 without any doubt.
    a, b = (row.mean.resampled_values for row in score.rows)
    assert np.abs(a - b).max() > 0.05
    assert any(note.startswith("Not paired") for note in score.notes)


def test_results_without_names_of_images_are_refused_where_languages_overlap(tmp_path):
    write_babel_result(tmp_path, "a", "de", range(400), "1")
    write_babel_result(tmp_path, "a", "fr", range(100, 500), "2")

    def read_without_names(path):
        samples = dict(read_samples(path))
        samples.pop("name")
        return samples

    path = tmp_path / "suite.yaml"
    path.write_text(
        "datasets: {clip-benchmark: [babel-imagenet-de, babel-imagenet-fr]}\nscore: {}\n"
    )
    entries = entries_of(read_checked(sorted(tmp_path.glob("*.json"))))
    with pytest.raises(UsageError, match=r"babel-imagenet-de.* has no names of images"):
        suite_score(read_score(str(path)), entries, read_without_names)
