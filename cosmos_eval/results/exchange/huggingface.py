"""The Hugging Face hub's results: `.eval_results/*.yaml`, and `model-index` in README.md.

A model's repository has both: the hub shows the YAML files on the pages of data sets that are
benchmarks, and the older model-index on the page of the model (github.com/huggingface/hub-docs,
commit 242f4a1: docs/hub/eval-results.md, eval_results.yaml, modelcard.md). A YAML file names no
model: it is called as in README.md beside it, or else after the folder. Files written here state
task, data set and protocol in `notes`, and in `args` of model-index.

The hub asks for no unit. If a value of a fraction is above 1, its file is read as percentages. A
`verifyToken` is not checked: no imported number is verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.protocols import find_known
from cosmos_eval.protocols.webdatasets import WEBDATASETS
from cosmos_eval.results.exchange import names
from cosmos_eval.results.exchange.record import (
    Format,
    ImportedFile,
    ImportedResult,
    WrittenFiles,
    read_metrics,
    write_file,
)
from cosmos_eval.results.filenames import safe_name
from cosmos_eval.results.identity import labelled
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import HUB_FOLDER
from cosmos_eval.results.text import one_line
from cosmos_eval.tasks import metric_of, usable_task
from cosmos_eval.types import UsageError

NAME = "huggingface"
CARD = "README.md"
_ENTRY_KEYS = ("dataset", "value", "verifyToken", "date", "source", "notes")
_DATASET_KEYS = ("id", "task_id", "config", "revision")
_TASKS_THERE = {"cls": "zero-shot-image-classification", "seg": "image-segmentation"}
_TASKS_HERE = {"zero-shot-image-classification": "cls"}  # other cards segment without texts
_NOTES = "task {}, data set {}, protocol {}, cosmos-eval {}"
_NOTES_PATTERN = re.compile(r"task (\S+), data set (.+), protocol (.+), cosmos-eval \S+")


class _Cell(NamedTuple):
    """The place of a value: a model, and the data set by its name here if it is known here."""

    model: str
    task: str
    dataset: str
    protocol: str
    # Whether cosmos-eval wrote the value.
    written_here: bool


class _Value(NamedTuple):
    """The value of a metric in a file, by the metric's name there."""

    cell: _Cell
    metric: str
    value: Any


def read(text: str, path: Path) -> ImportedFile | None:
    """Return the results in a YAML file of `.eval_results` or in a model card; None for others.

    Raises:
        UsageError: If a file of `.eval_results` is not a list in YAML, and for a card with a
            model-index that cannot be read.
    """
    if path.suffix == ".md" and "model-index:" in text:
        return _read_card(path)
    is_in_folder = path.absolute().parent.name == HUB_FOLDER
    if path.suffix != ".yaml" or not (is_in_folder or "task_id:" in text):
        return None
    try:
        content = _read_entries(text, path)
    except UsageError:
        if is_in_folder:
            raise
        return None  # another tool's file
    return content if is_in_folder or content.results else None


def _read_entries(text: str, path: Path) -> ImportedFile:
    """Return the results in a YAML file. Raises UsageError if it is not a list in YAML."""
    import yaml

    try:
        entries = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {one_line(str(error))}") from error
    if not isinstance(entries, list):
        raise UsageError(f"{path}: not a list of evaluation results of the hub: correct it")
    model = _model_of_folder(path)
    values = []
    unread = []
    for number, entry in enumerate(entries, start=1):
        if not _is_entry(entry):
            unread.append(f"entry {number}, which has no dataset.id, dataset.task_id and value")
            continue
        unread += sorted(entry.keys() - set(_ENTRY_KEYS))
        unread += [f"dataset.{key}" for key in sorted(entry["dataset"].keys() - set(_DATASET_KEYS))]
        values.append(_read_entry(entry, model))
    return _to_file(values, path, unread)


def _is_entry(entry: Any) -> bool:
    """Return whether a part of a YAML file has the keys that the hub requires."""
    dataset = entry.get("dataset") if isinstance(entry, dict) else None
    return (
        isinstance(dataset, dict)
        and isinstance(dataset.get("id"), str)
        and isinstance(dataset.get("task_id"), str)
        and "value" in entry
    )


def _model_of_folder(path: Path) -> str:
    """Return what the model of a YAML file is called.

    It is the name in the model-index of the card in the repository, or the name of its folder. A
    file that is in no folder `.eval_results` is called by its own name.
    """
    folder = path.absolute().parent
    if folder.name != HUB_FOLDER:
        return path.stem
    card = folder.parent / CARD
    if card.is_file():
        models = _model_index(card)
        if len(models) == 1 and isinstance(models[0], dict) and models[0].get("name"):
            return str(models[0]["name"])
    return folder.parent.name


def _read_entry(entry: Mapping[str, Any], model: str) -> _Value:
    """Return the value of an entry of a YAML file.

    If cosmos-eval wrote the entry, its notes state task, data set and protocol. For another entry,
    the data set is the one that this package reads from the same repository of the hub. If there
    is none, the repository's name is used as the data set's name, and "huggingface" as the task.
    """
    repository = entry["dataset"]["id"]
    notes = _NOTES_PATTERN.fullmatch(str(entry.get("notes")))
    if notes:
        task, dataset, protocol = notes.groups()
        cell = _Cell(model, task, dataset, protocol, written_here=True)
    else:
        known_dataset = dataset_of_repository(repository)
        task = find_known(known_dataset).task if known_dataset else NAME
        dataset = known_dataset or repository
        cell = _Cell(model, task, dataset, protocol=NAME, written_here=False)
    return _Value(cell, metric=entry["dataset"]["task_id"], value=entry["value"])


def _read_card(path: Path) -> ImportedFile | None:
    """Return the results in the model-index of a card; None for a card without one.

    The library reads all results of a model-index or none, so it is given one at a time.
    """
    from huggingface_hub.repocard_data import model_index_to_eval_results

    models = _model_index(path)
    if not models:
        return None
    values = []
    unread = []
    for model in models:
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list):
            unread.append("a model without results")
            continue
        for number, result in enumerate(results, start=1):
            try:
                name, card_results = model_index_to_eval_results([model | {"results": [result]}])
            except (KeyError, TypeError, AttributeError, ValueError):
                unread.append(f"result {number}, which has no task, dataset and metrics")
                continue
            values += [_read_card_result(card_result, str(name)) for card_result in card_results]
    return _to_file(values, path, unread)


def _model_index(path: Path) -> list[Any]:
    """Return the models in the model-index of a card; an empty list without one.

    Raises UsageError for a front matter that is not YAML, and for another kind of model-index.
    """
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        content = metadata_load(path)
    except (YAMLError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: its front matter cannot be read: {one_line(str(error))}"
        ) from error
    models = (content or {}).get("model-index") or []
    if not isinstance(models, list):
        raise UsageError(f"{path}: its model-index is not a list of models: correct it")
    return models


def _read_card_result(result: Any, model: str) -> _Value:
    """Return a value of a model-index.

    Args:
        result: A result as the library reads it, an `EvalResult`.
        model: The name of the model.
    """
    args = result.metric_args if isinstance(result.metric_args, dict) else {}
    if {"task", "dataset", "protocol"} <= args.keys():
        cell = _Cell(model, str(args["task"]), str(args["dataset"]), str(args["protocol"]), True)
        return _Value(cell, str(result.metric_name), result.metric_value)

    # The usual task on a data set here is without training; cards of other tasks keep their names.
    task = _TASKS_HERE.get(result.task_type, str(result.task_type))
    dataset = dataset_of_repository(str(result.dataset_type)) if usable_task(task) else None
    if dataset is None:
        # Other configurations and splits than the usual ones are data sets of their own.
        words = [result.dataset_config, result.dataset_split]
        unusual_words = [str(word) for word in words if word not in (None, "default", "test")]
        dataset = labelled(str(result.dataset_type), unusual_words)
    cell = _Cell(model, task, dataset, NAME, False)
    return _Value(cell, str(result.metric_type), result.metric_value)


def _to_file(values: Sequence[_Value], path: Path, unread: list[str]) -> ImportedFile:
    """Return the results that the values in a file make.

    Args:
        values: The values in the file.
        path: The file.
        unread: The names in the file that were not read, which is added to.
    """
    is_percent = any(_is_percentage(value) for value in values)
    metrics_by_cell: dict[_Cell, dict[str, Any]] = {}
    for value in values:
        metrics = metrics_by_cell.setdefault(value.cell, {})
        if value.metric in metrics:
            unread.append(f"a second {value.metric} on {value.cell.dataset}")
        elif is_percent and _is_fraction(value) and isinstance(value.value, int | float):
            metrics[value.metric] = value.value / 100
        else:
            metrics[value.metric] = value.value

    results = []
    unknown_datasets = []
    for cell, metrics in metrics_by_cell.items():
        metrics_here, unread_metrics = read_metrics(
            NAME, cell.task, cell.dataset, metrics, written_here=cell.written_here
        )
        unread += unread_metrics
        if not (cell.written_here or _is_known(cell.dataset)):
            unknown_datasets.append(cell.dataset)
        if metrics_here:
            results.append(
                ImportedResult(
                    path=path,
                    model=cell.model,
                    task=cell.task,
                    dataset=cell.dataset,
                    protocol=cell.protocol,
                    metrics=metrics_here,
                )
            )
    notes = ["read as percentages, since a value is above 1"] if is_percent else []
    return ImportedFile(results, unread, unknown_datasets, notes)


def _is_known(dataset: str) -> bool:
    """Return whether this package knows a data set by its name here."""
    try:
        find_known(dataset)
    except UsageError:
        return False
    return True


def _is_fraction(value: _Value) -> bool:
    """Return whether the metric of a value that another tool wrote is a fraction here."""
    cell = value.cell
    metric = names.metric_here(NAME, cell.task, cell.dataset, value.metric) or value.metric
    return not cell.written_here and metric_of(cell.task, metric).unit == "fraction"


def _is_percentage(value: _Value) -> bool:
    """Return whether a value of a fraction is above 1, so that its file holds percentages.

    A metric that this package does not have, such as a loss, does not count.
    """
    is_number = isinstance(value.value, int | float) and not isinstance(value.value, bool)
    if not is_number or value.value <= 1 or not _is_fraction(value):
        return False
    task = usable_task(value.cell.task)
    metric = names.metric_here(NAME, value.cell.task, value.cell.dataset, value.metric)
    return task is None or task.has_metric(metric or value.metric)


def repository_of(row: ResultRow) -> str | None:
    """Return the repository of the hub that has the data set of a result; None if it is unknown.

    Example: a result on imagenet1k -> "ILSVRC/imagenet-1k".
    """
    repository = row.provenance.get("repository")
    if repository:
        return str(repository)
    protocol = WEBDATASETS.get(row.dataset, {}).get(row.protocol)
    return getattr(protocol, "repository", None) or names.dataset_there(
        NAME, row.dataset, row.protocol
    )


def dataset_of_repository(repository: str) -> str | None:
    """Return the data set here that a repository of the hub has; None for an unknown one.

    Example: "ILSVRC/imagenet-1k" -> "imagenet1k", "djghosh/wds_cars_test" -> "wds/cars".
    """
    dataset = names.dataset_here(NAME, repository)
    if dataset is not None:
        return dataset[0]
    for name, protocols in WEBDATASETS.items():
        for protocol in protocols.values():
            if getattr(protocol, "repository", None) == repository:
                return name
    return None


def write(results: Sequence[StoredResult], output: Path) -> WrittenFiles:
    """Write results to the folder of a model's repository, or one folder in it for each model.

    A README.md that is there keeps its text, its other metadata and its other results.

    Args:
        results: Distinct results.
        output: The folder.

    Raises:
        UsageError: If a file cannot be written, or a README.md cannot be read.
    """
    results_by_model: dict[str, list[StoredResult]] = {}
    for result in results:
        results_by_model.setdefault(result.label, []).append(result)
    paths = []
    for model, model_results in sorted(results_by_model.items()):
        folder = output if len(results_by_model) == 1 else output / safe_name(model)
        for result in model_results:
            if repository_of(result.row):
                paths.append(_write_entries(result, folder / HUB_FOLDER))
        paths.append(_write_card(model, model_results, folder / CARD))
    n_without = sum(repository_of(result.row) is None for result in results)
    notes = []
    if n_without:
        notes.append(
            f"results only in {CARD}, since their data sets are in no known repository of the hub: "
            f"{n_without}"
        )
    return WrittenFiles(paths, notes)


def _write_entries(result: StoredResult, folder: Path) -> Path:
    """Write the headline metrics of a result to a file of `.eval_results`, and return its path."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    row = result.row
    task = usable_task(row.task)
    entries = []
    for metric, value in row.metrics.items():
        if task is None or metric in task.headlines:
            entry = EvalResultEntry(
                dataset_id=str(repository_of(row)),
                task_id=names.metric_there(NAME, row.task, row.dataset, metric) or metric,
                value=value,
                dataset_revision=row.provenance.get("revision"),
                date=row.provenance["utc"],
                notes=_NOTES.format(
                    row.task, result.dataset, row.protocol, row.provenance["version"]
                ),
            )
            entries.append(entry)
    path = folder / f"{safe_name(f'{result.dataset} {row.protocol}')}.yaml"
    return write_file(path, yaml_dump(eval_result_entries_to_yaml(entries)))


def _write_card(model: str, results: Sequence[StoredResult], path: Path) -> Path:
    """Write all metrics of a model to the model-index of a card, and return the card's path."""
    from huggingface_hub import ModelCard

    card_results = []
    for result in results:
        card_results += _to_card_results(result)
    try:
        text = path.read_text("utf-8") if path.is_file() else f"---\n{{}}\n---\n# {model}\n"
        card = ModelCard(text)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read as a model card: {one_line(str(error))}"
        ) from error
    metadata: Any = card.data
    for old_result in metadata.eval_results or []:
        if not any(old_result.is_equal_except_value(result) for result in card_results):
            card_results.append(old_result)
    metadata.model_name = metadata.model_name or model
    metadata.eval_results = card_results
    return write_file(path, str(card))


def _to_card_results(result: StoredResult) -> list[Any]:
    """Return the metrics of a result as the library's `EvalResult`."""
    from huggingface_hub import EvalResult

    row = result.row
    card_results = []
    for metric, value in row.metrics.items():
        card_result = EvalResult(
            task_type=_TASKS_THERE.get(row.task, row.task),
            dataset_type=repository_of(row) or result.dataset,
            dataset_name=result.dataset,
            dataset_revision=row.provenance.get("revision"),
            metric_type=names.metric_there(NAME, row.task, row.dataset, metric) or metric,
            metric_name=metric,
            metric_value=value,
            metric_args={"task": row.task, "dataset": result.dataset, "protocol": row.protocol},
        )
        card_results.append(card_result)
    return card_results


FORMAT = Format(NAME, "Hugging Face", (".yaml", ".md"), read, write)
