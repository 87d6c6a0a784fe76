"""CLIP Benchmark's results: a JSON file per result, and the CSV table that `build` makes of them.

Its cli.py writes the keys dataset, model, pretrained, task, metrics and language, and optionally
classnames and templates. `build` writes a column for each of these, one for each metric, and
model_fullname (github.com/LAION-AI/CLIP_benchmark, clip_benchmark 1.6.2). Files written here also
have the key `protocol`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosmos_eval.results.exchange import names
from cosmos_eval.results.exchange.record import (
    Format,
    ImportedFile,
    ImportedResult,
    WrittenFiles,
    model_of_openclip,
    notes_of_writing,
    openclip_names,
    parse_object,
    parse_table,
    read_metrics,
    table_text,
    write_file,
    write_metrics,
)
from cosmos_eval.results.filenames import safe_name
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.text import json_text

NAME = "clip-benchmark"
_REQUIRED = ("dataset", "model", "task")
_FIELDS = (
    *_REQUIRED,
    "pretrained",
    "language",
    "protocol",
    "model_fullname",
    "classnames",
    "templates",
)
_ENGLISH = "en"
_TASKS = {
    "zeroshot_classification": "cls",
    "zeroshot_retrieval": "retrieval",
    "image_caption_selection": "select",
    "linear_probe": "probe",
}
_TASKS_THERE = {
    "cls": "zeroshot_classification",
    "multilabel": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "select": "image_caption_selection",
    "probe": "linear_probe",
}
_OTHER_PROTOCOLS = ("linear_probe", "captioning")
"""Tasks on data sets that zero-shot tasks measure too, so that they are protocols of their own."""


def read(text: str, path: Path) -> ImportedFile | None:
    """Return the results in a JSON file or CSV table of CLIP Benchmark; None for another text."""
    record = parse_object(text)
    if record is not None:
        metrics = record.get("metrics")
        if not _is_record(record) or not isinstance(metrics, dict):
            return None
        unknown_keys = sorted(record.keys() - {*_FIELDS, "metrics"})
        return _read_records([(record, metrics)], path, unknown_keys)

    records = []
    for row in parse_table(text):
        if not _is_record(row):
            return None
        metrics = {name: cell for name, cell in row.items() if name not in _FIELDS}
        records.append((row, metrics))
    return _read_records(records, path, []) if records else None


def _is_record(record: Mapping[str, Any]) -> bool:
    """Return whether a record has the fields of CLIP Benchmark as texts, or no weights."""
    has_weights = isinstance(record.get("pretrained", 0), str | None)
    return has_weights and all(isinstance(record.get(name), str) for name in _REQUIRED)


def _read_records(
    records: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    path: Path,
    unread: list[str],
) -> ImportedFile:
    """Return the results of a file of CLIP Benchmark.

    Args:
        records: The fields and the metrics of each result.
        path: The file.
        unread: The keys of the file that CLIP Benchmark does not write.
    """
    results = []
    unknown_datasets = []
    for fields, metrics in records:
        task = _TASKS.get(fields["task"], fields["task"])
        if task == "cls" and metrics.get("mean_average_precision") not in (None, ""):
            task = "multilabel"
        dataset, protocol = _find_dataset(fields)
        is_unknown = names.dataset_there(NAME, dataset, protocol) is None
        if is_unknown and not fields.get("protocol"):
            unknown_datasets.append(dataset)
        values, unread_metrics = read_metrics(
            NAME, task, dataset, metrics, written_here=bool(fields.get("protocol"))
        )
        unread += unread_metrics
        result = ImportedResult(
            path=path,
            model=model_of_openclip(fields["model"], fields["pretrained"] or ""),
            task=task,
            dataset=dataset,
            protocol=protocol,
            metrics=values,
        )
        results.append(result)
    return ImportedFile(results, unread, unknown_datasets)


def _find_dataset(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return the data set and the protocol here of a result of CLIP Benchmark.

    An unknown data set keeps its name. Texts in another language than English make another data
    set, and a linear probe another protocol.

    Args:
        fields: The fields of the result.

    Example: a linear probe on "cars" -> ("stanford_cars", "clip-benchmark-linear_probe").
    """
    name = fields["dataset"]
    dataset, protocol = names.dataset_here(NAME, name) or (name, NAME)
    if fields["task"] in _OTHER_PROTOCOLS:
        protocol = f"{NAME}-{fields['task']}"
    language = fields.get("language") or _ENGLISH
    if language != _ENGLISH:
        dataset = f"{dataset} ({language})"

    # Files that cosmos-eval wrote state the protocol. In another one, data sets keep their names.
    stated_protocol = fields.get("protocol") or protocol
    return (dataset if stated_protocol == protocol else name), str(stated_protocol)


def write(results: Sequence[StoredResult], output: Path) -> WrittenFiles:
    """Write results as CLIP Benchmark does.

    Args:
        results: Distinct results.
        output: A .csv file for one table, or a folder for one JSON file per result.

    Raises:
        UsageError: If no result has a task of CLIP Benchmark, or if files cannot be written.
    """
    chosen_results = [result for result in results if result.row.task in _TASKS_THERE]
    notes = notes_of_writing("CLIP Benchmark", results, chosen_results, "other tasks")
    records = [_to_record(result) for result in chosen_results]
    if output.suffix == ".csv":
        return WrittenFiles([write_file(output, _to_table(records))], notes)
    paths = []
    for record in records:
        path = output / f"{_file_stem(record)}.json"
        paths.append(write_file(path, json_text(record) + "\n"))
    return WrittenFiles(paths, notes)


def _to_record(result: StoredResult) -> dict[str, Any]:
    """Return a result as the JSON file of CLIP Benchmark holds it."""
    row = result.row
    dataset = names.dataset_there(NAME, row.dataset, row.protocol)
    model, pretrained = openclip_names(result.label)
    return {
        "dataset": dataset or result.dataset,
        "model": model,
        "pretrained": pretrained,
        "task": _TASKS_THERE[row.task],
        "metrics": write_metrics(NAME, result),
        "language": _ENGLISH,
        "protocol": row.protocol,
    }


def _file_stem(record: Mapping[str, Any]) -> str:
    """Return the name of the JSON file of a record, without its suffix.

    It is CLIP Benchmark's usual name, with `wds_` if the data set begins with `wds/`, and with the
    protocol at its end.
    """
    dataset = record["dataset"].replace("/", "_")
    words = [dataset, record["pretrained"], record["model"], record["language"], record["task"]]
    return "_".join(safe_name(word) for word in [*words, record["protocol"]] if word)


def _to_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as the CSV table that `clip_benchmark build` makes of their files."""
    rows = []
    for record in records:
        row = dict(record["metrics"])
        row.update(record)
        del row["metrics"]
        row["model_fullname"] = f"{record['model']} {record['pretrained']}"
        rows.append(row)
    return table_text(rows)


FORMAT = Format(NAME, "CLIP Benchmark", (".json", ".csv"), read, write)
