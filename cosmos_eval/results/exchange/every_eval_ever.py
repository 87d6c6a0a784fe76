"""Every Eval Ever's records: a JSON file per result, and its samples as JSON Lines beside it.

The schemas are eval.schema.json and instance_level_eval.schema.json, version 0.3.0
(github.com/evaleval/every_eval_ever, commit 9bce413), and the paths are as in its datastore:
data/DATA SET/DEVELOPER/MODEL/UUID.json and UUID_samples.jsonl. Records written here state task and
protocol in `source_data.additional_details`. The only value of a sample is true if the model is
right.
"""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.protocols import find_known
from cosmos_eval.results.exchange import huggingface, names
from cosmos_eval.results.exchange.record import (
    Format,
    ImportedFile,
    ImportedResult,
    WrittenFiles,
    parse_object,
    read_metrics,
    write_file,
)
from cosmos_eval.results.export import load_samples
from cosmos_eval.results.filenames import safe_name
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.text import json_text, one_line
from cosmos_eval.tasks import metric_of
from cosmos_eval.tasks.metric import Metric
from cosmos_eval.types import UsageError

NAME = "every-eval-ever"
VERSION = "0.3.0"
_LIBRARY = "cosmos-eval"
_REQUIRED = ("schema_version", "evaluation_id", "model_info", "evaluation_results")
_KEYS = (
    *_REQUIRED,
    "evaluation_timestamp",
    "retrieved_timestamp",
    "source_metadata",
    "eval_library",
    "detailed_evaluation_results",
)
_RESULT_KEYS = (
    "evaluation_result_id",
    "evaluation_name",
    "source_data",
    "evaluation_timestamp",
    "metric_config",
    "score_details",
    "generation_config",
)
_UNKNOWN_SOURCE_NOTE = (
    "before you publish the files, correct source_organization_name, evaluator_relationship and "
    "developers of models that are `unknown`: results do not state them"
)


class _Cell(NamedTuple):
    """The place of a value: its task, and its data set by the name here if it is known here."""

    task: str
    dataset: str
    protocol: str
    # Whether cosmos-eval wrote the value.
    written_here: bool


class _Answer(NamedTuple):
    """True if a model is right about a sample."""

    # The metric that is the fraction of right answers.
    metric: str
    sample: str
    reference: str
    answer: str
    is_right: bool


def read(text: str, path: Path) -> ImportedFile | None:
    """Return the results in a record of Every Eval Ever; None for another text.

    Records of other versions are read as far as they have the same keys.
    """
    record = parse_object(text)
    if record is None or not _is_record(record):
        return None
    is_written_here = _object(record, "eval_library").get("name") == _LIBRARY
    unread = sorted(record.keys() - set(_KEYS))
    metrics_by_cell: dict[_Cell, dict[str, Any]] = {}
    for number, result in enumerate(record["evaluation_results"], start=1):
        if not _is_result(result):
            unread.append(f"evaluation result {number}, which has no name, data or score")
            continue
        unread += sorted(result.keys() - set(_RESULT_KEYS))
        cell = _find_cell(result, written_here=is_written_here)
        name = _metric_name(result, written_here=is_written_here)
        metrics = metrics_by_cell.setdefault(cell, {})
        if name in metrics:
            unread.append(f"a second {name} on {cell.dataset}")
        else:
            metrics[name] = _score(result, cell, name)
    model = str(record["model_info"]["name" if is_written_here else "id"])
    results, unread_metrics = _to_results(metrics_by_cell, model, path)
    version = record["schema_version"]
    return ImportedFile(
        results=results,
        unread=[*unread, *unread_metrics],
        unknown_datasets=[cell.dataset for cell in metrics_by_cell if cell.task == NAME],
        notes=[] if version == VERSION else [f"of schema version {version}, read as {VERSION}"],
    )


def _to_results(
    metrics_by_cell: Mapping[_Cell, Mapping[str, Any]], model: str, path: Path
) -> tuple[list[ImportedResult], list[str]]:
    """Return the results that the values of a record make, and the metrics that were not read.

    Args:
        metrics_by_cell: The values of each task and data set, by the names of metrics there.
        model: The name of the model.
        path: The file.
    """
    results = []
    unread = []
    for cell, metrics in metrics_by_cell.items():
        values, unread_metrics = read_metrics(
            NAME, cell.task, cell.dataset, metrics, written_here=cell.written_here
        )
        unread += unread_metrics
        if values:
            results.append(
                ImportedResult(path, model, cell.task, cell.dataset, cell.protocol, values)
            )
    return results, unread


def _is_record(record: Mapping[str, Any]) -> bool:
    """Return whether a JSON object has the keys that every record needs to be read."""
    model_info = _object(record, "model_info")
    return (
        all(key in record for key in _REQUIRED)
        and {"name", "id"} <= model_info.keys()
        and isinstance(record["evaluation_results"], list)
    )


def _is_result(result: Any) -> bool:
    """Return whether an evaluation result has a name, a data set and a score."""
    return (
        isinstance(result, dict)
        and isinstance(result.get("evaluation_name"), str)
        and "dataset_name" in _object(result, "source_data")
        and "score" in _object(result, "score_details")
    )


def _object(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the JSON object at a key; an empty one if there is none."""
    content = record.get(key)
    return content if isinstance(content, dict) else {}


def _find_cell(result: Mapping[str, Any], *, written_here: bool) -> _Cell:
    """Return the place of an evaluation result.

    A data set that is unknown here is called as the evaluation, and its task as the format.

    Args:
        result: The evaluation result.
        written_here: True if cosmos-eval wrote the record.
    """
    source = result["source_data"]
    details = _object(source, "additional_details")
    if written_here and {"task", "protocol"} <= details.keys():
        return _Cell(details["task"], source["dataset_name"], details["protocol"], True)
    dataset = huggingface.dataset_of_repository(str(source.get("hf_repo")))
    if dataset is None:
        return _Cell(NAME, result["evaluation_name"], NAME, False)
    return _Cell(find_known(dataset).task, dataset, NAME, False)


def _metric_name(result: Mapping[str, Any], *, written_here: bool) -> str:
    """Return the name of the metric of an evaluation result.

    Records of cosmos-eval have the name here. In other records, the identifier of the metric
    counts, or else its name.

    Args:
        result: The evaluation result.
        written_here: True if cosmos-eval wrote the record.
    """
    config = _object(result, "metric_config")
    keys = ("metric_name", "metric_id") if written_here else ("metric_id", "metric_name")
    for key in keys:
        if config.get(key):
            return str(config[key])
    return "score"


def _score(result: Mapping[str, Any], cell: _Cell, name: str) -> Any:
    """Return the score of an evaluation result; a percentage of a fraction as a fraction.

    Args:
        result: The evaluation result.
        cell: Its place.
        name: The name of its metric there.
    """
    score = result["score_details"]["score"]
    config = _object(result, "metric_config")
    metric = names.metric_here(NAME, cell.task, cell.dataset, name) or name
    is_percentage = config.get("metric_unit") == "percent" or config.get("max_score") == 100
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    if is_number and is_percentage and metric_of(cell.task, metric).unit == "fraction":
        return score / 100
    return score


def write(results: Sequence[StoredResult], output: Path) -> WrittenFiles:
    """Write results as records, and their samples if these are right or wrong.

    Args:
        results: Distinct results.
        output: The folder for the folder `data`.

    Raises:
        UsageError: If files cannot be written.
    """
    paths: list[Path] = []
    notes = [_UNKNOWN_SOURCE_NOTE]
    for result in results:
        record = _to_record(result)
        try:
            answers = _answers_of(result)
        except UsageError as error:
            notes.append(f"samples not written: {one_line(str(error))}")
            answers = []
        path = Path(_repository_path(result, record["model_info"]["id"]))
        if answers:
            samples_path = path.with_name(f"{path.stem}_samples.jsonl")
            lines = [json_text(_to_line(answer, record)) + "\n" for answer in answers]
            text = "".join(lines)
            record["detailed_evaluation_results"] = {
                "format": "jsonl",
                "file_path": samples_path.as_posix(),
                "hash_algorithm": "sha256",
                "checksum": hashlib.sha256(text.encode()).hexdigest(),
                "total_rows": len(lines),
            }
            paths.append(write_file(output / samples_path, text))
        paths.append(write_file(output / path, json_text(record, indent=2) + "\n"))
    return WrittenFiles(paths, notes)


def _repository_path(result: StoredResult, model: str) -> str:
    """Return the path of a record in the datastore, which is the same at each export.

    Args:
        result: The result.
        model: The identifier of its model, "DEVELOPER/MODEL".

    Example: "data/cifar10/unknown/scenes-clip/0f0e...-4d....json".
    """
    row = result.row
    content = [*result.cell, row.provenance["utc"], row.provenance["samples_sha256"]]
    digest = hashlib.sha256(json_text(content).encode()).digest()
    collection = safe_name(result.dataset)
    if collection == "data":  # which the datastore reserves
        collection = "data-set"
    return f"data/{collection}/{model}/{uuid.UUID(bytes=digest[:16], version=4)}.json"


def _model_id(result: StoredResult) -> str:
    """Return the identifier of a model: its repository on the hub, or "unknown/NAME".

    Example: "openclip:ViT-B-32/openai" -> "unknown/openclip-ViT-B-32-openai-90fae0".
    """
    model = result.row.model
    if "revision" in model and model["spec"].startswith("hf:"):
        return str(model["spec"].removeprefix("hf:").partition("@")[0])
    return f"unknown/{safe_name(result.label)}"


def _to_record(result: StoredResult) -> dict[str, Any]:
    """Return a result as a record, without its samples."""
    row = result.row
    provenance = row.provenance
    measured_at = str(int(datetime.fromisoformat(provenance["utc"]).timestamp()))
    model_id = _model_id(result)
    evaluation_id = f"{result.dataset}/{row.protocol}/{result.label}/{measured_at}"
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown" if model_id.startswith("unknown/") else "open_weights",
        "spec": row.model["spec"],
        "architecture": row.model["architecture"],
        "weights_sha256": row.model["weights_sha256"] or "random weights",
    }
    return {
        "schema_version": VERSION,
        "evaluation_id": evaluation_id,
        "evaluation_timestamp": measured_at,
        "retrieved_timestamp": str(int(time.time())),
        "source_metadata": {
            "source_name": _LIBRARY,
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": _LIBRARY, "version": provenance["version"]},
        "model_info": {"name": result.label, "id": model_id, "additional_details": details},
        "evaluation_results": [
            _to_evaluation_result(result, metric, f"{evaluation_id}/{metric}")
            for metric in row.metrics
        ],
    }


def _to_evaluation_result(result: StoredResult, metric: str, result_id: str) -> dict[str, Any]:
    """Return a metric of a result as an evaluation result.

    Args:
        result: The result.
        metric: The name of the metric here.
        result_id: The identifier that its samples refer to.
    """
    row = result.row
    repository = huggingface.repository_of(row)
    source = {
        "dataset_name": result.dataset,
        "source_type": "hf_dataset" if repository else "other",
        "additional_details": {
            "task": row.task,
            "protocol": row.protocol,
            "samples": str(row.n_samples),
        },
    }
    if repository:
        source["hf_repo"] = repository
    score_details: dict[str, Any] = {"score": row.metrics[metric]}
    interval = row.intervals.get(metric)
    if interval is not None:
        score_details["uncertainty"] = {
            "confidence_interval": {
                "lower": interval["low"],
                "upper": interval["high"],
                "confidence_level": interval["level"],
                "method": interval["method"],
            },
            "num_samples": row.n_samples,
        }
    return {
        "evaluation_result_id": result_id,
        "evaluation_name": result.dataset,
        "source_data": source,
        "metric_config": _to_metric_config(result, metric_of(row.task, metric)),
        "score_details": score_details,
    }


def _to_metric_config(result: StoredResult, metric: Metric) -> dict[str, Any]:
    """Return what a record says about a metric. Bounds may be infinite, which it writes as text."""
    row = result.row
    foreign_name = names.metric_there(NAME, row.task, row.dataset, metric.name)
    bounds = [
        str(bound).replace("inf", "Infinity") if math.isinf(bound) else float(bound)
        for bound in metric.bounds
    ]
    return {
        "metric_id": foreign_name or f"cosmos_eval.{row.task}.{metric.name}",
        "metric_name": metric.name,
        "metric_unit": "proportion" if metric.unit == "fraction" else metric.unit,
        "lower_is_better": not metric.higher_is_better,
        "score_type": "continuous",
        "min_score": bounds[0],
        "max_score": bounds[1],
    }


def _answers_of(result: StoredResult) -> list[_Answer]:
    """Return the answers to the samples of a result; an empty list if they are not right or wrong.

    Results of retrieval store the rank of the right item, so that a rank is the answer.

    Raises:
        UsageError: If the samples cannot be read.
    """
    if result.row.task not in ("cls", "select", "retrieval"):
        return []
    table = load_samples(result.path)
    if "image" not in table:
        table["image"] = [f"sample {number}" for number in range(len(table))]
    answers = []
    for number, row in enumerate(table.to_dict("records")):
        image = str(row["image"])
        if result.row.task == "cls":
            label, prediction = str(row["label"]), str(row["prediction"])
            answers.append(_Answer("acc1", image, label, prediction, row["rank"] == 1))
        elif result.row.task == "select":
            sample, answer = f"{image}, item {number}", "right" if row["correct"] else "wrong"
            answers.append(_Answer("accuracy", sample, "right", answer, answer == "right"))
        elif row["query"] == "image":
            answer = f"rank {row['rank']}"
            answers.append(_Answer("image_to_text_R@1", image, "rank 1", answer, row["rank"] == 1))
        else:
            sample, answer = f"{image}, caption {row['caption']}", f"rank {row['rank']}"
            answers.append(_Answer("text_to_image_R@1", sample, "rank 1", answer, row["rank"] == 1))
    return answers


def _to_line(answer: _Answer, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer as a line of the file of samples.

    Args:
        answer: The answer.
        record: The record of the result.
    """
    return {
        "schema_version": VERSION,
        "evaluation_id": record["evaluation_id"],
        "model_id": record["model_info"]["id"],
        "evaluation_name": record["evaluation_results"][0]["evaluation_name"],
        "evaluation_result_id": f"{record['evaluation_id']}/{answer.metric}",
        "sample_id": answer.sample,
        "interaction_type": "single_turn",
        "input": {"raw": answer.sample, "reference": [answer.reference]},
        "output": {"raw": [answer.answer]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": answer.answer,
                "extraction_method": "exact_match",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": float(answer.is_right), "is_correct": bool(answer.is_right)},
    }


FORMAT = Format(NAME, "Every Eval Ever", (".json",), read, write)
