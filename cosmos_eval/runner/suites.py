"""Suites: YAML files that list data sets by protocol. Imports no torch.

A suite may also list models, every one of which is measured on every data set, and state how a
score is computed. Files that a suite names are relative to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field

from cosmos_eval.data.readers import CONFIG, FileError, Text, parse, read_yaml
from cosmos_eval.data.user_yaml import PROTOCOL_NAME as USER_PROTOCOL
from cosmos_eval.models.specs import parse_model_spec, with_complete_paths, with_labels
from cosmos_eval.tasks import find_protocol, metric_of, task_named
from cosmos_eval.types import Protocol, Suite, SuiteMember, UsageError, nearest

_SUFFIXES = (".yaml", ".yml")
_Names = Annotated[list[Text], Field(min_length=1)]


class _Score(BaseModel):
    """A suite's score: the mean of a metric over its data sets."""

    model_config = CONFIG

    # The protocols whose data sets are members of the mean; None for all protocols.
    # `families` is an older name of the key.
    protocols: _Names | None = Field(
        default=None, validation_alias=AliasChoices("protocols", "families")
    )
    # The metric of all data sets; None for each data set's main metric, or else for the primary
    # metrics of its task.
    metric: Text | None = None
    # Other metrics for single data sets, by the names of the data sets.
    metrics: dict[Text, Text] = {}
    # Lists of data sets that count as one data set.
    as_one: list[_Names] = []


class _Model(BaseModel):
    """A model of a suite."""

    model_config = CONFIG

    # The model as `--model` takes it.
    model: Text
    # The name of the model in results; None for the usual name.
    name: Text | None = None


def _model_fields(value: Any) -> Any:
    """Return a model that is written as a string as the fields of a `_Model`."""
    return {"model": value} if isinstance(value, str) else value


_ModelOrText = Annotated[_Model, BeforeValidator(_model_fields)]


class _SuiteFile(BaseModel):
    """The content of a suite's file."""

    model_config = CONFIG

    models: Annotated[list[_ModelOrText], Field(min_length=1)] | None = None
    # The names or YAML files of data sets by protocol.
    datasets: Annotated[dict[Text, _Names], Field(min_length=1)]
    score: _Score | None = None
    # Data sets that the suite's source has and the suite has not, and why.
    left_out: dict[Text, Text] = {}
    # The publication that defines the suite.
    source: Text | None = None


def known_suites() -> Mapping[str, Path]:
    """Return the files of this package's suites by the suites' names."""
    folder = Path(str(files("cosmos_eval.protocols"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_suite(name_or_file: str, *, with_models: bool = True) -> Suite:
    """Read a suite of this package by its name, or a user's suite from a YAML file.

    Its models are read only `with_models`; otherwise they may be missing. Raises UsageError that
    names the file, and what in it is missing, unknown or repeated.
    """
    paths = known_suites()
    path = paths.get(name_or_file, Path(name_or_file))
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"unknown suite {name_or_file!r}; known: {nearest(name_or_file, list(paths))}; "
            "or a .yaml file of your own"
        )
    try:
        content = parse(_SuiteFile, read_yaml(path, "datasets: {scenes: [scenes-cls]}"))
        models = (content.models or []) if with_models else []
        return _make_suite(content, path, models)
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None


def read_score(name_or_file: str) -> Suite:
    """Read a suite that has a score, without its models.

    Raises UsageError if the suite has no score, and as `read_suite` does.
    """
    suite = read_suite(name_or_file, with_models=False)
    if not suite.members:
        raise UsageError(
            f"suite {name_or_file} has no `score`: add one to a file of yours, such as "
            "`score: {metric: acc1}`"
        )
    return suite


def _make_suite(content: _SuiteFile, path: Path, models: Sequence[_Model]) -> Suite:
    """Return the suite that a file describes, with its data sets and models found and checked."""
    model_texts = tuple(with_complete_paths(model.model, path.parent) for model in models)
    model_names = tuple(model.name for model in models)
    specs = with_labels([parse_model_spec(text) for text in model_texts], model_names)
    protocols = _find_protocols(content, path.parent)
    refuse_repeated(model_texts, "models: ")
    refuse_repeated([spec.called for spec in specs], "models: ")
    datasets = {protocol.dataset for protocol in protocols}
    for name in content.left_out:
        if name in datasets:
            raise UsageError(f"left_out: {name} is one of `datasets`")
    members: tuple[SuiteMember, ...] = ()
    if content.score is not None:
        members = _make_members(content.score, protocols)
    return Suite(
        name=path.stem,
        models=model_texts,
        names=model_names,
        protocols=protocols,
        members=members,
        left_out=content.left_out,
        source=content.source or "",
    )


def _find_protocols(content: _SuiteFile, folder: Path) -> tuple[Protocol, ...]:
    """Return the protocols of all data sets of a suite. Files are relative to `folder`."""
    protocols = []
    for protocol_name, names in content.datasets.items():
        for name in names:
            protocols.append(_find_protocol(name, protocol_name, folder))
    dataset_names = [f"{protocol.dataset} ({protocol.protocol_name})" for protocol in protocols]
    refuse_repeated(dataset_names, "datasets: ")
    return tuple(protocols)


def _find_protocol(name: str, protocol_name: str, folder: Path) -> Protocol:
    """Return the protocol of a known data set, or of a data set that a YAML file describes."""
    if Path(name).suffix not in _SUFFIXES:
        return find_protocol(name, protocol_name)
    if protocol_name != USER_PROTOCOL:
        raise FileError(
            f"{name} states its own protocol: list it under `{USER_PROTOCOL}`, "
            f"not `{protocol_name}`"
        )
    return find_protocol(str(folder / name))


def _make_members(score: _Score, protocols: Sequence[Protocol]) -> tuple[SuiteMember, ...]:
    """Return the members of a mean. Raises UsageError for unknown names and for mixed metrics."""
    protocol_names = list(dict.fromkeys(protocol.protocol_name for protocol in protocols))
    chosen_protocol_names = score.protocols or protocol_names
    chosen_protocols = [
        protocol for protocol in protocols if protocol.protocol_name in chosen_protocol_names
    ]
    datasets = [protocol.dataset for protocol in chosen_protocols]
    datasets_as_one = list(chain.from_iterable(score.as_one))
    _require_known("score.protocols", chosen_protocol_names, protocol_names)
    _require_known("score.metrics", score.metrics, datasets)
    _require_known("score.as_one", datasets_as_one, datasets)
    refuse_repeated(datasets_as_one, "score.as_one: ")
    weights: dict[str, float] = {}
    for names in score.as_one:
        for name in names:
            weights[name] = 1 / len(names)
    members = []
    for protocol in chosen_protocols:
        metric = score.metrics.get(protocol.dataset, score.metric)
        members.append(_make_member(protocol, metric, weights.get(protocol.dataset, 1.0)))
    _require_one_kind_of_metric(members)
    return tuple(members)


def _make_member(protocol: Protocol, metric_name: str | None, weight: float) -> SuiteMember:
    """Return a data set as the member of a mean, with the metric of this name.

    Without a name, the metric is the main one of the data set, or else all primary ones of the
    task. Raises UsageError if the task does not have the metric.
    """
    task_metrics = task_named(protocol.task).metrics
    metric_names = [metric.name for metric in task_metrics if metric.members is None]
    if metric_name is not None and metric_name not in metric_names:
        raise UsageError(
            f"score: {protocol.dataset} has no metric '{metric_name}'; "
            f"{protocol.task} has {nearest(metric_name, metric_names)}"
        )
    single_metric = metric_name or protocol.main_metric
    if single_metric is None:
        metrics = tuple(metric.name for metric in task_metrics if metric.primary)
    else:
        metrics = (single_metric,)
    return SuiteMember(protocol.task, protocol.dataset, protocol.protocol_name, metrics, weight)


def _require_one_kind_of_metric(members: Sequence[SuiteMember]) -> None:
    """Raise UsageError unless all metrics of a mean have one unit and one direction."""
    examples: dict[str, str] = {}  # the first metric of each kind
    for member in members:
        for name in member.metrics:
            metric = metric_of(member.task, name)
            direction = "higher" if metric.higher_is_better else "lower"
            kind = f"({metric.unit}, {direction} is better)"
            examples.setdefault(kind, f"{metric.name} of {member.dataset}")
    if len(examples) > 1:
        metric_texts = ", ".join(f"{example} {kind}" for kind, example in examples.items())
        raise UsageError(f"score: no mean of different kinds of metrics: {metric_texts}")


def _require_known(field: str, names: Iterable[str], known_names: Sequence[str]) -> None:
    """Raise UsageError if a field of the file has an unknown name."""
    for name in names:
        if name not in known_names:
            raise UsageError(
                f"{field}: unknown member '{name}'; known: {nearest(name, known_names)}"
            )


def refuse_repeated(names: Sequence[str], prefix: str = "") -> None:
    """Raise UsageError for repeated names: the second result would replace the first one.

    `prefix` says in the message which field has the names.
    """
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{prefix}{name} is given twice")
