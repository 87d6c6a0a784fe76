"""Suites: YAML files that list data sets by protocol. Imports no torch.

A suite may also list models, every one of which is measured on every data set, and state how a
score is computed. Files that a suite names are relative to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field

from cosmos_eval.data.readers import CONFIG, FileError, Text, parse, path_of, read_yaml
from cosmos_eval.data.user_yaml import PROTOCOL_NAME as USER_PROTOCOL
from cosmos_eval.models.specs import parse_model_spec, with_complete_paths, with_labels
from cosmos_eval.protocols.languages import with_all_languages
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
    # Two metrics or more of all data sets, in place of `metric`. Each of them is averaged over the
    # data sets, and the score is the harmonic mean of these means.
    harmonic_mean: Annotated[list[Text], Field(min_length=2)] | None = None


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

    Args:
        name_or_file: A name such as `vtab+`, or the path of a YAML file.
        with_models: True if the models of the suite are read and checked. If not, the suite has no
            models, and the file may name models that cannot be found.

    Raises:
        UsageError: If something in the file is missing, unknown or repeated. The message names the
            file.
    """
    path_by_name = known_suites()
    path = path_by_name.get(str(name_or_file), path_of(name_or_file, "suite"))
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"unknown suite {name_or_file!r}; nearest: {nearest(name_or_file, path_by_name)}; "
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
    """Return the suite that a file describes, with its data sets and models found and checked.

    Args:
        content: The parsed file.
        path: The file. Its name is the name of the suite, and paths in it are relative to its
            folder.
        models: The models of the suite; empty if they are not needed.
    """
    folder = path.parent
    model_texts = tuple(with_complete_paths(model.model, folder) for model in models)
    model_names = tuple(model.name for model in models)
    specs = with_labels([parse_model_spec(text) for text in model_texts], model_names)

    protocols = _find_protocols(content.datasets, folder)
    refuse_repeated(model_texts, "models: ")
    refuse_repeated([spec.called for spec in specs], "models: ")
    datasets = {protocol.dataset for protocol in protocols}
    for dataset_name in content.left_out:
        if dataset_name in datasets:
            raise UsageError(f"left_out: {dataset_name} is one of `datasets`")

    members: tuple[SuiteMember, ...] = ()
    if content.score is not None:
        members = _make_members(content.score, protocols)
    return Suite(
        name=path.stem,
        models=model_texts,
        names=model_names,
        protocols=tuple(protocols),
        members=members,
        left_out=content.left_out,
        source=content.source or "",
        is_harmonic=content.score is not None and content.score.harmonic_mean is not None,
    )


def _find_protocols(names_by_protocol: Mapping[str, Sequence[str]], folder: Path) -> list[Protocol]:
    """Return the protocols of the data sets of a suite.

    Args:
        names_by_protocol: The names or YAML files of data sets by the name of their protocol.
        folder: The folder of the suite's file.

    Raises:
        UsageError: For unknown and repeated data sets.
    """
    protocols = []
    for protocol_name, dataset_names in names_by_protocol.items():
        for dataset_name in with_all_languages(dataset_names):
            protocols.append(_find_protocol(dataset_name, protocol_name, folder))
    refuse_repeated(
        [f"{protocol.dataset} ({protocol.protocol_name})" for protocol in protocols], "datasets: "
    )
    return protocols


def _find_protocol(name: str, protocol_name: str, folder: Path) -> Protocol:
    """Return the protocol of a known data set, or of a data set that a YAML file describes.

    Args:
        name: The name of the data set, or the path of its YAML file relative to `folder`.
        protocol_name: The protocol that the suite lists the data set under.
        folder: The folder of the suite's file.
    """
    is_file = Path(name).suffix in _SUFFIXES
    if not is_file:
        return find_protocol(name, protocol_name)
    if protocol_name != USER_PROTOCOL:
        raise FileError(
            f"{name} states its own protocol: list it under `{USER_PROTOCOL}`, "
            f"not `{protocol_name}`"
        )
    return find_protocol(str(folder / name))


def _make_members(score: _Score, protocols: Sequence[Protocol]) -> tuple[SuiteMember, ...]:
    """Return the data sets that count in the mean of a suite.

    Args:
        score: The entry `score` of the suite's file, which says how the mean is computed.
        protocols: The protocols of all data sets of the suite.

    Raises:
        UsageError: For unknown names, and for metrics of different units or directions.

    Example:
        With `as_one: [[imagenet-a, imagenet-r]]`, both data sets are members with the weight 1/2,
        and all other data sets have the weight 1.
    """
    if score.harmonic_mean and (score.metric or score.metrics):
        raise UsageError("score: give `harmonic_mean`, or `metric` and `metrics`, not both")
    all_names = list(dict.fromkeys(protocol.protocol_name for protocol in protocols))
    chosen_names = score.protocols or all_names
    chosen_protocols = [
        protocol for protocol in protocols if protocol.protocol_name in chosen_names
    ]
    datasets = [protocol.dataset for protocol in chosen_protocols]
    datasets_as_one = list(chain.from_iterable(score.as_one))
    _require_known("score.protocols", chosen_names, all_names)
    _require_known("score.metrics", score.metrics, datasets)
    _require_known("score.as_one", datasets_as_one, datasets)
    refuse_repeated(datasets_as_one, "score.as_one: ")

    weight_by_dataset: dict[str, float] = {}
    for names in score.as_one:
        for name in names:
            weight_by_dataset[name] = 1 / len(names)
    members = []
    for protocol in chosen_protocols:
        weight = weight_by_dataset.get(protocol.dataset, 1.0)
        metric_names = _chosen_metrics(score, protocol.dataset)
        members.append(_make_member(protocol, metric_names, weight))
    _require_one_kind_of_metric(members)
    return tuple(members)


def _chosen_metrics(score: _Score, dataset: str) -> Sequence[str]:
    """Return the metrics of a data set that the entry `score` names; empty if it names none."""
    if score.harmonic_mean is not None:
        return score.harmonic_mean
    metric = score.metrics.get(dataset, score.metric)
    return [] if metric is None else [metric]


def _make_member(protocol: Protocol, metric_names: Sequence[str], weight: float) -> SuiteMember:
    """Return a data set as the member of a mean.

    Args:
        protocol: The protocol of the data set.
        metric_names: The metrics that count. Empty: the main metric of the data set if it has one,
            or else all primary metrics of its task.
        weight: The weight of the data set in the mean.

    Raises:
        UsageError: If the task does not have a metric.
    """
    task_metrics = task_named(protocol.task).metrics
    # A metric such as `acc1_*` stands for one metric for each subset, and has no value itself.
    names_of_task = [metric.name for metric in task_metrics if metric.members is None]
    for name in metric_names:
        if name not in names_of_task:
            raise UsageError(
                f"score: {protocol.dataset} has no metric '{name}'; "
                f"{protocol.task} has {nearest(name, names_of_task)}"
            )
    metrics = tuple(metric_names)
    if not metrics and protocol.main_metric is not None:
        metrics = (protocol.main_metric,)
    elif not metrics:
        metrics = tuple(metric.name for metric in task_metrics if metric.primary)
    return SuiteMember(protocol.task, protocol.dataset, protocol.protocol_name, metrics, weight)


def _require_one_kind_of_metric(members: Sequence[SuiteMember]) -> None:
    """Raise UsageError unless all metrics of a mean have one unit and one direction.

    The message names a metric of each kind: `acc1 of cars (%, higher is better), ...`.
    """
    example_of_kind: dict[str, str] = {}  # the first metric of each kind
    for member in members:
        for name in member.metrics:
            metric = metric_of(member.task, name)
            direction = "higher" if metric.higher_is_better else "lower"
            kind = f"({metric.unit}, {direction} is better)"
            example_of_kind.setdefault(kind, f"{metric.name} of {member.dataset}")
    if len(example_of_kind) > 1:
        metric_texts = ", ".join(f"{example} {kind}" for kind, example in example_of_kind.items())
        raise UsageError(f"score: no mean of different kinds of metrics: {metric_texts}")


def _require_known(field: str, names: Iterable[str], known_names: Sequence[str]) -> None:
    """Raise UsageError for the first unknown name in a field of a suite's file.

    Args:
        field: The name of the field for the message, such as `score.metrics`.
        names: The names in the field.
        known_names: The names that it may have.
    """
    for name in names:
        if name not in known_names:
            raise UsageError(
                f"{field}: unknown member '{name}'; nearest: {nearest(name, known_names)}"
            )


def refuse_repeated(names: Sequence[str], prefix: str = "") -> None:
    """Raise UsageError for repeated names: the second result would replace the first one.

    Args:
        names: The names of models or data sets.
        prefix: The beginning of the message, such as `models: `.
    """
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{prefix}{name} is given twice")
