"""Names of data sets and metrics in other tools, from protocols/facts/exchange.csv.

In the table, `there` is the name in the tool and `here` the name in this package. A `*` stands for
the same text in both. Rows with a task or a data set are only for these, and the first row counts.
An empty `here` is a metric of the tool that says nothing. An empty protocol of a data set stands
for any.
"""

from collections.abc import Iterator, Mapping

from cosmos_eval.protocols.facts import read_table

_TABLE = "exchange.csv"


def name_rows() -> list[dict[str, str]]:
    """Return the rows of the table, each as texts by the names of columns."""
    return read_table(_TABLE)


def dataset_here(format_name: str, name: str) -> tuple[str, str] | None:
    """Return the name and the protocol of a tool's data set here; None for an unknown one.

    The protocol is empty if the tool states none.

    Example: ("clip-benchmark", "cars") -> ("stanford_cars", "clip-benchmark").
    """
    for row in _rows(format_name, "data set"):
        dataset = _translate(name, row["there"], row["here"])
        if dataset is not None:
            return dataset, row["protocol"]
    return None


def dataset_there(format_name: str, dataset: str, protocol: str) -> str | None:
    """Return the name of a data set in a tool; None for one that it does not have.

    The protocol must be the one by which the tool measures the data set, unless the tool states no
    protocol.

    Example: ("clip-benchmark", "stanford_cars", "clip-benchmark") -> "cars".
    """
    for row in _rows(format_name, "data set"):
        name = _translate(dataset, row["here"], row["there"])
        if name is not None and row["protocol"] in ("", protocol):
            return name
    return None


def metric_here(format_name: str, task: str, dataset: str, name: str) -> str | None:
    """Return the name of a tool's metric here; None for an unknown one.

    Args:
        format_name: The name of the format.
        task: The name of the task here.
        dataset: The name of the data set here.
        name: The name of the metric in the tool.

    Example: ("clip-benchmark", "retrieval", "wds/flickr8k", "image_retrieval_recall@5") ->
        "text_to_image_R@5".
    """
    for row in _rows_of_metrics(format_name, task, dataset):
        metric = _translate(name, row["there"], row["here"])
        if metric is not None:
            return metric or None
    return None


def metric_there(format_name: str, task: str, dataset: str, metric: str) -> str | None:
    """Return the name of a metric in a tool; None for one that it does not have.

    Args:
        format_name: The name of the format.
        task: The name of the task here.
        dataset: The name of the data set here.
        metric: The name of the metric here.
    """
    for row in _rows_of_metrics(format_name, task, dataset):
        name = _translate(metric, row["here"], row["there"])
        if name is not None:
            return name
    return None


def _rows(format_name: str, kind: str) -> Iterator[Mapping[str, str]]:
    """Yield the rows of the table for a format and a kind, `data set` or `metric`."""
    for row in name_rows():
        if row["format"] == format_name and row["kind"] == kind:
            yield row


def _rows_of_metrics(format_name: str, task: str, dataset: str) -> Iterator[Mapping[str, str]]:
    """Yield the rows for the metrics of a task on a data set."""
    for row in _rows(format_name, "metric"):
        is_for_dataset = not row["dataset"] or _translate(dataset, row["dataset"], "") is not None
        if row["task"] == task and is_for_dataset:
            yield row


def _translate(name: str, pattern: str, translation: str) -> str | None:
    """Return the translation of a name that matches a pattern; None for another name.

    Args:
        name: The name.
        pattern: A name, in which one `*` may stand for any text.
        translation: The translation, in which a `*` stands for that text.

    Example: ("recall@5", "recall@*", "R@*") -> "R@5".
    """
    start, star, end = pattern.partition("*")
    if not star:
        return translation if name == pattern else None
    text = name[len(start) : len(name) - len(end)]
    return translation.replace("*", text) if name == f"{start}{text}{end}" else None
