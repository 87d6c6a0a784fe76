"""The lists that `cosmos-eval list` prints. Imports no torch."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from cosmos_eval.models.specs import BUNDLED, RELEASED
from cosmos_eval.protocols import (
    described_sets,
    named_protocols,
    protocols_of_dataset,
    suite_names,
)
from cosmos_eval.protocols.declared import read_yaml
from cosmos_eval.protocols.facts import facts_of_datasets, training_of
from cosmos_eval.protocols.languages import language_of, language_sets, with_all_languages
from cosmos_eval.tasks import (
    TASKS,
    known_tasks,
    name_faults,
    packages_of,
    require_task,
    task_named,
)
from cosmos_eval.types import (
    TASKS_BY_WORD,
    Protocol,
    Suite,
    UsageError,
    base_protocol_name,
    short_task_name,
)

Record = dict[str, str]
RecordKind = TypeVar("RecordKind", bound=Mapping[str, Any])

_BYTES_PER_GB = 10**9
_OTHER = "other: "  # before the task, as the topic of a data set without a row of facts

COMPARABLE_WITH: dict[str, str] = read_yaml("protocols")
"""The numbers with which the results of a protocol can be compared."""

_OTHER_MODELS = {
    "cosmos:PATH": "a COSMOS checkpoint; --arch where it does not state its architecture",
    "openclip:ARCH/TAG": "a pretrained OpenCLIP model (all: --search openclip) or TAG `random`",
    "openclip:ARCH/PATH": "an OpenCLIP checkpoint",
    "openclip:FOLDER": "a folder in OpenCLIP's hub layout, as `cosmos-train export` writes it",
    "openclip:hf-hub:ORG/NAME": "a repository of the Hugging Face hub in that layout",
    "hf:FOLDER, hf:ORG/NAME[@REVISION]": "a model of transformers with two towers",
    "python:FILE.py": "a model of your own: the file's load(device, precision) makes it",
}


def models() -> list[Record]:
    """List bundled and released models, and the forms that name any other model."""
    records = [{"model": name, "kind": "bundled"} for name in BUNDLED]
    for name, arch in RELEASED.items():
        records.append({"model": f"cosmos:{name}", "kind": f"released, {arch}"})
    for form, kind in _OTHER_MODELS.items():
        records.append({"model": form, "kind": kind})
    return records


def list_records(
    list_name: str, text: str | None = None, task: str | None = None
) -> Sequence[Mapping[str, Any]]:
    """Return the records of a list.

    Args:
        list_name: The argument of `cosmos-eval list`, such as `models`.
        text: Only records with this text are returned, see `search`; None for all records. In the
            list of models, all models of OpenCLIP are searched too.
        task: Only data sets of this task are returned; None for all tasks, and for other lists.

    Raises:
        UsageError: If no record contains the text, for an unknown task, and for a task of a list
            other than `datasets`.
    """
    if task is not None and list_name != "datasets":
        raise UsageError(f"--task is for `list datasets`: give `list {list_name}` --search")
    if list_name == "models" and text is not None:
        return search_models(text)
    records = datasets(task) if list_name == "datasets" else LISTS[list_name]()
    return records if text is None else search(records, text)


def search_models(text: str) -> list[Record]:
    """List the models whose row contains a text, also each pretrained model of OpenCLIP.

    Rows also state the training data and the number of samples seen, as far as their sources
    (protocols/facts) tell, and the published results that this package has.

    Args:
        text: The text. Capital letters do not matter.
    """
    # These imports take seconds: OpenCLIP imports torch.
    import open_clip

    from cosmos_eval.results.leaderboard.facts import count_text

    records = models()
    for arch, tag in open_clip.list_pretrained():
        records.append({"model": f"openclip:{arch}/{tag}", "kind": "OpenCLIP"})
    for record in records:
        training = training_of(record["model"])
        samples_seen = training.get("samples_seen")
        record["training data"] = training.get("training_data", "")
        record["samples seen"] = count_text(samples_seen) if samples_seen else ""
        record["published"] = _published_text(record["model"])
    return search(records, text)


def search(records: Sequence[RecordKind], text: str) -> list[RecordKind]:
    """Return the records that contain a text in any of their texts, in capitals or not.

    Numbers and lists in a record are not searched.

    Raises UsageError if there is none.
    """
    matches = []
    for record in records:
        texts = [value for value in record.values() if isinstance(value, str)]
        if text.lower() in "\n".join(texts).lower():
            matches.append(record)
    if not matches:
        raise UsageError(f"no row contains {text!r}; see the list without --search")
    return matches


def _published_text(model: str) -> str:
    """Return a summary of a model's published results that this package has.

    Example:
        `acc1 66.6 on imagenet1k; 39 data sets`. The text is empty without published results.
    """
    from cosmos_eval.results.leaderboard.entries import read_published_entries  # imports NumPy

    name = model.replace("-quickgelu/", "/")  # published numbers leave the activation out
    datasets = set()
    accuracies = []
    for entry in read_published_entries():
        if entry.model == name and entry.source == "published":
            # Two protocols name the same images "imagenet1k" and "wds/imagenet1k".
            dataset = entry.dataset.rpartition("/")[2]
            language = language_of(entry.dataset)
            datasets.add(language.language_set if language else dataset)
            if dataset == "imagenet1k":
                accuracies.append(entry.metrics["acc1"])
    texts = [f"acc1 {100 * accuracy:.1f} on imagenet1k" for accuracy in accuracies[:1]]
    if datasets:
        texts.append("1 data set" if len(datasets) == 1 else f"{len(datasets)} data sets")
    return "; ".join(texts)


def tasks() -> list[Record]:
    """List all tasks, the metrics that tables show, and the packages that bring them."""
    records = []
    for name in known_tasks():
        try:
            metrics_or_fault = ", ".join(task_named(name).headlines)
        except UsageError as error:
            metrics_or_fault = str(error)
        package = " ".join(chain(*packages_of(name).items())) or "cosmos-eval"
        records.append({"task": name, "shown": metrics_or_fault, "brought by": package})
    for name, fault in name_faults().items():
        records.append({"task": name, "shown": fault, "brought by": ""})
    return records


def datasets(task: str | None = None) -> list[dict[str, Any]]:
    """List known data sets with their task, their usual protocol and facts about them.

    A set in many languages, such as `xm3600`, is one row for all of its languages.

    The facts are from protocols/facts/datasets.csv: the topic, bytes to download, the licence,
    whether the reader was tried on original files, and the URLs of the sources. Without a row, the
    topic is the task, bytes are None, and other facts are empty.

    Args:
        task: The name of a task, whose data sets are listed; None for all data sets.

    Raises:
        UsageError: For an unknown task.
    """
    if task is not None:
        task = short_task_name(task, known_tasks())
        require_task(task)
    protocols_by_name = dict(named_protocols())
    protocols_by_name.update(described_sets())
    for name, protocols_of_set in language_sets().items():
        protocols_by_name[name] = next(iter(protocols_of_set.values()))
    facts_by_name = facts_of_datasets(protocols_by_name)
    records = []
    for name, protocol in protocols_by_name.items():
        if task not in (None, protocol.task):
            continue
        facts = facts_by_name[name]
        n_bytes = facts.get("download_bytes")
        record = {
            "dataset": name,
            "task": protocol.task,
            "protocol": protocol.protocol_name,
            "topic": facts.get("topic", _OTHER + _task_word(protocol.task)),
            "download_bytes": int(n_bytes) if n_bytes else None,
            "licence": facts.get("licence", ""),
            "original": facts.get("original", ""),
            "sources": facts.get("sources", "").split(),
        }
        records.append(record)
    return records


def _task_word(task: str) -> str:
    """Return the full word for a task with a short name: `classification` for `cls`."""
    for word, name in TASKS_BY_WORD.items():
        if name == task:
            return word
    return task


def dataset_rows(records: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return the rows of the table of data sets, by topics and tasks, which fit 80 columns.

    Args:
        records: Records of `datasets`.
    """
    rows = []
    for record in sorted(records, key=_topic_order):
        row = {
            "topic": record["topic"],
            "task": record["task"],
            "dataset": record["dataset"],
            "download GB": _gigabytes_text(record["download_bytes"]),
            "licence": record["licence"],
            "original": record["original"],
        }
        rows.append(row)
    return rows


def _topic_order(record: Mapping[str, Any]) -> tuple[bool, str, int]:
    """Return the key that sorts records by topic, then by task.

    The topics of data sets without facts, which are tasks, come last.
    """
    topic: str = record["topic"]
    return topic.startswith(_OTHER), topic, TASKS.index(record["task"])


def _gigabytes_text(n_bytes: int | None) -> str:
    """Return a number of bytes in gigabytes with two or more digits: `0.047`, `5.0` or `138`.

    The text is empty if the number is None.
    """
    if n_bytes is None:
        return ""
    gigabytes = n_bytes / _BYTES_PER_GB
    return f"{gigabytes:.0f}" if gigabytes >= 9.95 else f"{gigabytes:#.2g}"


def dataset_details(records: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return records of `datasets` as texts that show everything, by the names of the facts."""
    details = []
    for record in records:
        detail = {
            "dataset": record["dataset"],
            "topic": record["topic"],
            "task": record["task"],
            "protocol": record["protocol"],
            "download GB": _gigabytes_text(record["download_bytes"]),
            "licence": record["licence"],
            "original": record["original"],
            "sources": " ".join(record["sources"]),
        }
        details.append(detail)
    return details


def protocols() -> list[Record]:
    """List protocols, what their numbers can be compared with, and their data sets."""
    # With what the numbers of each protocol can be compared.
    meanings = dict(COMPARABLE_WITH)
    datasets_by_protocol: dict[str, list[str]] = defaultdict(list)
    for dataset in (*named_protocols(), *described_sets()):
        for protocol_name, protocol in protocols_of_dataset(dataset).items():
            datasets_by_protocol[protocol_name].append(dataset)
            base_name = base_protocol_name(protocol_name)
            scores_pairs = protocol_name != base_name
            if scores_pairs:
                pairs = _scored_pairs(protocol)
                meanings[protocol_name] = f"itself: `{base_name}`, scored by a PairScorer, {pairs}"
    for name, protocols_of_set in language_sets().items():
        protocol_name = next(iter(protocols_of_set.values())).protocol_name
        datasets_by_protocol[protocol_name].append(name)
    records = []
    for protocol_name, meaning in meanings.items():
        record = {
            "protocol": protocol_name,
            "comparable with": meaning,
            "datasets": ", ".join(datasets_by_protocol[protocol_name]),
        }
        records.append(record)
    return records


def _scored_pairs(protocol: Any) -> str:
    """Return which pairs a PairScorer, a model that scores images and texts together, scores.

    For a protocol with 100 candidates: `the best 100 of each query`.
    """
    return "all pairs" if protocol.pairs == "all" else f"the best {protocol.pairs} of each query"


def suites() -> list[Record]:
    """List the suites of this package: members, tasks, the rule of the mean, and the source."""
    from cosmos_eval.runner.suites import read_suite  # which imports NumPy

    return [_suite_record(read_suite(name)) for name in suite_names()]


def suite_rows() -> list[Record]:
    """Return the rows of the table of suites, one short line each, without importing NumPy.

    The files of the suites are not checked. `suites` reads them in full.
    """
    usual_protocols = named_protocols()
    rows = []
    for name in suite_names():
        rows.append(_suite_row(name, read_yaml(f"suites/{name}"), usual_protocols))
    return rows


def _suite_row(
    name: str, content: Mapping[str, Any], usual_protocols: Mapping[str, Protocol]
) -> Record:
    """Return a suite as a row of the short table, by the headings of the columns.

    Args:
        name: The name of the suite.
        content: The content of its file.
        usual_protocols: The usual protocol of data sets by their names. Other protocols, and
            protocols of other data sets, are looked up, which takes longer.
    """
    score = content.get("score")
    all_names = {
        protocol_name: with_all_languages(dataset_names)
        for protocol_name, dataset_names in content["datasets"].items()
    }
    counted_protocols = (score or {}).get("protocols", all_names)
    n_datasets = sum(len(all_names[protocol_name]) for protocol_name in counted_protocols)
    n_left_out = len(content.get("left_out", {}))
    tasks_of_suite: dict[str, None] = {}
    for protocol_name, dataset_names in all_names.items():
        for dataset_name in dataset_names:
            protocol = usual_protocols.get(dataset_name)
            if protocol is None or protocol.protocol_name != protocol_name:
                protocol = protocols_of_dataset(dataset_name)[protocol_name]
            tasks_of_suite[protocol.task] = None
    return {
        "suite": name,
        "models": str(len(content["models"])) if "models" in content else "",
        "sets": f"{n_datasets} of {n_datasets + n_left_out}" if n_left_out else str(n_datasets),
        "tasks": ", ".join(tasks_of_suite),
        "mean of": "" if score is None else _short_score_text(score),
    }


def _short_score_text(score: Mapping[str, Any]) -> str:
    """Return the metric of a suite's mean: `acc1`, or `accuracy, ...` if members have others.

    Args:
        score: The entry `score` of the suite's file. Without a metric, it is `main metrics`, or
            `harmonic mean`.
    """
    if "harmonic_mean" in score:
        return "harmonic mean"
    metric: str = score.get("metric", "main metrics")
    other_metrics = {*score.get("metrics", {}).values()} - {metric}
    return f"{metric}, ..." if other_metrics else metric


def _suite_record(suite: Suite) -> Record:
    """Return a suite as a row of the list, by the headings of the columns."""
    return {
        "suite": suite.name,
        "models": str(len(suite.models)) if suite.models else "--model",
        "members": suite.present(len(suite.members or suite.protocols)),
        "tasks": ", ".join(dict.fromkeys(protocol.task for protocol in suite.protocols)),
        "score": _score_text(suite),
        "datasets": _datasets_text(suite),
        "source": suite.source,
    }


def _score_text(suite: Suite) -> str:
    """Return the metrics of a suite's mean, each with the number of data sets that it counts for.

    For example `mean of acc1 (20), mIoU (8)`. Data sets that count as one have weights that add up
    to 1.
    """
    n_datasets_of_metrics: dict[str, float] = defaultdict(float)
    for member in suite.members:
        metrics = " and ".join(member.metrics)
        n_datasets_of_metrics[metrics] += member.weight
    if not n_datasets_of_metrics:
        return "none"
    texts = [f"{metrics} ({n:g})" for metrics, n in n_datasets_of_metrics.items()]
    kind = "harmonic mean" if suite.is_harmonic else "mean"
    return f"{kind} of {', '.join(texts)}"


def _datasets_text(suite: Suite) -> str:
    """Return the data sets of a suite by protocol, then the ones that are left out.

    For example `cosmos: voc20, voc21; datacomp: wds/cars; left out: food101`.
    """
    datasets_by_protocol: dict[str, list[str]] = defaultdict(list)
    for protocol in suite.protocols:
        names = datasets_by_protocol[protocol.protocol_name]
        name = protocol.language_set or protocol.dataset
        if name not in names:
            names.append(name)
    texts = [
        f"{protocol_name}: {', '.join(names)}"
        for protocol_name, names in datasets_by_protocol.items()
    ]
    if suite.left_out:
        texts.append(f"left out: {', '.join(suite.left_out)}")
    return "; ".join(texts)


def formats() -> list[Record]:
    """List the names of data sets and metrics in files of other tools, and their names here."""
    from cosmos_eval.results.exchange.names import name_rows

    records = []
    for row in name_rows():
        record = {
            "format": row["format"],
            "kind": row["kind"],
            "name there": row["there"],
            "name here": row["here"] or "not read",
            "protocol": row["protocol"],
            "only for": row["dataset"] or row["task"],
        }
        records.append(record)
    return records


LISTS = {
    "models": models,
    "tasks": tasks,
    "protocols": protocols,
    "suites": suites,
    "formats": formats,
}
"""The functions that return the lists but `datasets`, by the argument of `cosmos-eval list`."""
