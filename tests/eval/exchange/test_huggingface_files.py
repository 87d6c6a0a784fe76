"""The hub's `.eval_results` and model-index, both ways, beside what huggingface_hub reads."""

from __future__ import annotations

import json

import pytest
import yaml
from huggingface_hub import (
    EvalResultEntry,
    ModelCard,
    eval_result_entries_to_yaml,
    parse_eval_result_entries,
)
from support.exchange import FILES, by_dataset, made_up, read
from support.results import store_result

from cosmos_eval.results.exchange import huggingface
from cosmos_eval.results.exchange.places import find_results
from cosmos_eval.types import UsageError

CARD = FILES / "huggingface" / "README.md"
IMAGENET = {"dataset": "imagenet1k", "protocol": "cosmos", "metrics": {"acc1": 0.25, "acc5": 0.75}}
CARS = {
    "dataset": "wds/cars",
    "protocol": "datacomp",
    "metrics": {"acc1": 0.5},
    "provenance": {"revision": "1a2b"},
}
OWN = {"dataset": "photos", "protocol": "photos", "metrics": {"acc1": 0.125}}
RETRIEVAL = {
    "task": "retrieval",
    "dataset": "coco-karpathy",
    "protocol": "karpathy",
    "metrics": {"image_to_text_R@1": 0.375, "image_to_text_mean_rank": 7.5},
}


def written(folder, *fields):
    huggingface.write(made_up(*fields), folder)
    return folder


def write_yaml(folder, entries, name="a.yaml"):
    path = folder / ".eval_results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(entries))
    return path


def test_its_card_is_read():
    """The numbers of the card, of a task and data set that are unknown here."""
    content = read("huggingface", CARD)
    assert by_dataset(content.results) == {"beans": {"accuracy": 0.9, "f1": 0.66}}
    (result,) = content.results
    assert (result.model, result.task, result.protocol) == (
        "my-cool-model",
        "image-classification",
        "huggingface",
    )
    assert (content.unread, content.unknown_datasets) == ([], ["beans"])


def test_entries_that_the_library_writes_are_read(tmp_path):
    folder = tmp_path / "my-clip"
    folder.mkdir()
    entries = [
        EvalResultEntry("ILSVRC/imagenet-1k", "accuracy", 0.625, date="2026-01-15"),
        EvalResultEntry("djghosh/wds_cars_test", "acc5", 0.75, verify_token="x"),
        EvalResultEntry("cais/hle", "default", 20.9, source_url="https://x", source_org="y"),
    ]
    path = write_yaml(folder, eval_result_entries_to_yaml(entries))
    content = read("huggingface", path)
    assert by_dataset(content.results) == {
        "imagenet1k": {"acc1": 0.625},
        "wds/cars": {"acc5": 0.75},
        "cais/hle": {"default": 20.9},
    }
    assert {(result.model, result.protocol) for result in content.results} == {
        ("my-clip", "huggingface")
    }
    assert content.unknown_datasets == ["cais/hle"]
    assert find_results([folder]).imported == list(content.results)


def write_card(path, *metrics):
    """Write the card of a model with metrics on imagenet-1k, such as "type: accuracy, value: 1"."""
    lines = "".join(f"    - {{{metric}}}\n" for metric in metrics)
    path.write_text(f"""---
model-index:
- name: m
  results:
  - task: {{type: zero-shot-image-classification}}
    dataset: {{name: ImageNet-1K, type: imagenet-1k}}
    metrics:
{lines}---
""")


def test_percentages_are_fractions_here(tmp_path):
    """A card of a CLIP on the hub has 69.8 as the accuracy on imagenet-1k."""
    path = tmp_path / "README.md"
    write_card(path, "type: accuracy, value: 69.8", "type: ece, value: 0.5")
    content = read("huggingface", path)
    (result,) = content.results
    assert (result.dataset, result.task) == ("imagenet1k", "cls")
    assert result.metrics == pytest.approx({"acc1": 0.698, "ece": 0.005})
    assert find_results([path]).notes == [f"{path}: read as percentages, since a value is above 1"]


def test_an_unknown_metric_above_1_makes_no_percentages(tmp_path):
    path = tmp_path / "README.md"
    write_card(path, "type: accuracy, value: 0.683", "type: loss, value: 2.31")
    (result,) = read("huggingface", path).results
    assert result.metrics == {"acc1": 0.683}


def test_a_result_is_written_as_the_hub_documents_it(tmp_path):
    folder = written(tmp_path / "repository", IMAGENET)
    (path,) = (folder / ".eval_results").iterdir()
    assert path.name == "imagenet1k-cosmos.yaml"
    assert yaml.safe_load(path.read_text()) == [
        {
            "dataset": {"id": "ILSVRC/imagenet-1k", "task_id": "accuracy"},
            "value": 0.25,
            "date": "2025-01-01T00:00:00+00:00",
            "notes": "task cls, data set imagenet1k, protocol cosmos, cosmos-eval 0.1.0",
        }
    ]
    card = ModelCard.load(folder / "README.md")
    assert card.data.model_name == "scenes-cosmos"
    first, second = card.data.eval_results
    assert (first.task_type, first.dataset_type, first.dataset_name) == (
        "zero-shot-image-classification",
        "ILSVRC/imagenet-1k",
        "imagenet1k",
    )
    assert (first.metric_type, first.metric_name, first.metric_value) == ("accuracy", "acc1", 0.25)
    assert (second.metric_type, second.metric_name, second.metric_value) == ("acc5", "acc5", 0.75)
    assert {first.verified, first.verify_token} == {None}


def test_written_results_are_read_again_with_equal_numbers(tmp_path):
    folder = written(tmp_path / "x", IMAGENET, CARS, OWN, RETRIEVAL)
    entries = []
    for path in (folder / ".eval_results").iterdir():
        entries += parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert {(entry.dataset_id, entry.dataset_revision) for entry in entries} == {
        ("ILSVRC/imagenet-1k", None),
        ("djghosh/wds_cars_test", "1a2b"),
    }
    for place in (folder, folder / "README.md"):
        files = find_results([place])
        assert files.notes == []
        assert {
            (result.model, result.task, result.dataset, result.protocol): result.metrics
            for result in files.imported
        } == {
            ("scenes-cosmos", each.get("task", "cls"), each["dataset"], each["protocol"]): each[
                "metrics"
            ]
            for each in (IMAGENET, CARS, OWN, RETRIEVAL)
        }


def test_a_card_that_is_there_keeps_its_text_and_other_results(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "README.md").write_text(CARD.read_text())
    written(folder, IMAGENET)
    written(folder, {**IMAGENET, "metrics": {"acc1": 0.5, "acc5": 0.75}})
    card = ModelCard.load(folder / "README.md")
    assert card.text.strip() == ModelCard.load(CARD).text.strip()
    assert (card.data.license, card.data.library_name) == ("mit", "timm")
    assert {(each.dataset_name, each.metric_type): each.metric_value for each in
            card.data.eval_results} == {
        ("imagenet1k", "accuracy"): 0.5,
        ("imagenet1k", "acc5"): 0.75,
        ("Beans", "accuracy"): 0.9,
        ("Beans", "f1"): 0.66,
    }  # fmt: skip


def test_the_command_writes_one_repository_per_model(command, tmp_path):
    for spec in ("hf:org/a", "scenes-clip"):
        for dataset in ("imagenet1k", "photos"):
            store_result(
                tmp_path / "runs", "cls", dataset=dataset, protocol="cosmos", model={"spec": spec}
            )
    ended = command("export", "runs", "--format", "huggingface", "--output", "out")
    assert ended.status == 0
    assert ended.err == (
        "wrote out, 4 files\n"
        "note: results only in README.md, since their data sets are in no known repository of the "
        "hub: 2\n"
    )
    board = json.loads(command("leaderboard", "out", "--json").out)
    assert {(record["model"], record["dataset"], record["source"]) for record in board} == {
        (model, dataset, "imported")
        for model in ("hf:org/a", "scenes-clip")
        for dataset in ("imagenet1k", "photos")
    }
    assert {record["metrics"]["acc1"] for record in board} == {0.6}
    ended = command("compare", "out/scenes-clip", "runs", "--json")
    assert ended.status == 2  # runs has two models
    ended = command("verify", "out")
    assert ended.status == 2


def test_what_is_not_read_is_named(tmp_path):
    entry = {"dataset": {"id": "cais/hle", "task_id": "a"}, "value": 0.5}
    faulty = [
        {**entry, "seed": 1},
        {"dataset": {"id": "cais/hle"}, "value": 1},
        "text",
        {**entry, "value": 0.25},
        {"dataset": {"id": "imagenet-1k", "task_id": "default", "shots": 5}, "value": 0.5},
        {"dataset": {"id": "imagenet-1k", "task_id": "acc5"}, "value": "high"},
    ]
    path = write_yaml(tmp_path, faulty)
    content = read("huggingface", path)
    assert by_dataset(content.results) == {"cais/hle": {"a": 0.5}}
    missing = "which has no dataset.id, dataset.task_id and value"
    assert content.unread == [
        "seed",
        f"entry 2, {missing}",
        f"entry 3, {missing}",
        "dataset.shots",
        "a second a on cais/hle",
        "default",
        "acc5 (not a number)",
    ]


def test_two_models_in_one_card_are_both_read_beside_a_faulty_result(tmp_path):
    models = yaml.safe_load(CARD.read_text().split("---")[1])["model-index"]
    other = {"name": "other", "results": [models[0]["results"][0], {"task": {}}]}
    path = tmp_path / "README.md"
    content = {"model-index": [*models, other, {"name": "third"}]}
    path.write_text(f"---\n{yaml.safe_dump(content)}---\n")
    file = read("huggingface", path)
    assert {result.model: result.metrics for result in file.results} == {
        "my-cool-model": {"accuracy": 0.9, "f1": 0.66},
        "other": {"accuracy": 0.9},
    }
    assert file.unread == [
        "result 2, which has no task, dataset and metrics",
        "a model without results",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (".eval_results/a.yaml", "- [", "a.yaml: cannot be read as YAML: "),
        (".eval_results/a.yaml", "a: 1", "a.yaml: not a list of evaluation results of the hub"),
        ("README.md", "---\nmodel-index: {a: 1}\n---\n", "its model-index is not a list of models"),
        ("README.md", "---\nmodel-index: [\n---\n", "README.md: its front matter cannot be read: "),
    ],
)
def test_a_broken_file_is_one_line(command, tmp_path, name, text, message):
    path = tmp_path / "x" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    ended = command("leaderboard", "x")
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert message in ended.err


def test_other_yaml_files_and_readmes_are_left_alone(tmp_path):
    store_result(tmp_path, "cls")
    (tmp_path / "config.yaml").write_text("a: [")
    (tmp_path / "task.yaml").write_text("task_id: [")
    (tmp_path / "tasks.yaml").write_text("- {task_id: 1}\n")
    (tmp_path / "README.md").write_text("# Notes\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.json").write_text("{")
    files = find_results([tmp_path])
    assert (len(files.paths), files.imported, files.notes) == (1, [], [])


def test_a_card_that_cannot_be_kept_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("---\nmodel-index:\n- results: 1\n---\n")
    with pytest.raises(UsageError, match=r"README\.md: cannot be read as a model card: "):
        written(tmp_path, IMAGENET)
