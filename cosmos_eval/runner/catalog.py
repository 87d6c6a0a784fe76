"""The lists that `cosmos-eval list` prints. Imports no torch."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

from cosmos_eval.models.specs import BUNDLED, RELEASED
from cosmos_eval.protocols import described_sets, named_protocols, protocols_of_dataset
from cosmos_eval.protocols.declared import read_yaml
from cosmos_eval.protocols.facts import training_of
from cosmos_eval.protocols.languages import language_of, language_sets
from cosmos_eval.tasks import known_tasks, name_faults, packages_of, task_named
from cosmos_eval.types import Suite, UsageError, base_protocol_name

Record = dict[str, str]

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


def search(records: Sequence[Record], text: str) -> list[Record]:
    """Return the records that contain a text in any of their values, in capitals or not.

    Raises UsageError if there is none.
    """
    matches = []
    for record in records:
        if text.lower() in "\n".join(record.values()).lower():
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


def datasets() -> list[Record]:
    """List known data sets with their task and usual protocol.

    A set in many languages, such as `xm3600`, is one row for all of its languages.
    """
    protocols_by_name = dict(named_protocols())
    protocols_by_name.update(described_sets())
    for name, protocols_of_set in language_sets().items():
        protocols_by_name[name] = next(iter(protocols_of_set.values()))
    records = []
    for name, protocol in protocols_by_name.items():
        records.append({"dataset": name, "task": protocol.task, "protocol": protocol.protocol_name})
    return records


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
    from cosmos_eval.runner.suites import known_suites, read_suite  # which imports NumPy

    return [_suite_record(read_suite(name)) for name in known_suites()]


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
    "datasets": datasets,
    "protocols": protocols,
    "suites": suites,
    "formats": formats,
}
"""The functions that return the lists, by the argument of `cosmos-eval list`."""
