"""Suites: YAML files of `models`, of `datasets` by protocol family, and perhaps of a `score`.
Imports no torch.

Every model is measured on every data set. Files that a suite names are relative to it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BaseModel, Field

from cosmos_eval.data.readers import CONFIG, FileError, Text, parse, read_yaml
from cosmos_eval.data.user_yaml import FAMILY as USER
from cosmos_eval.models.specs import located, parse_model_spec
from cosmos_eval.tasks import find_protocol, metric_of, task_named, task_of
from cosmos_eval.types import Protocol, SuiteMember, UsageError, nearest

_SUFFIXES = (".yaml", ".yml")
_Names = Annotated[list[Text], Field(min_length=1)]
_Read = TypeVar("_Read")


class Suite(NamedTuple):
    """Models as `--model` takes them and the protocols that each is measured by, both distinct."""

    models: tuple[str, ...]
    protocols: tuple[Protocol, ...]


class _Score(BaseModel):
    """The mean over the data sets of some families (None: all) of a metric, which `metrics` states
    for single data sets, or else of the main metric of each or its task's primary ones."""

    model_config = CONFIG

    families: _Names | None = None
    metric: Text | None = None
    metrics: dict[Text, Text] = {}


class _File(BaseModel):
    model_config = CONFIG

    models: _Names
    datasets: Annotated[dict[Text, _Names], Field(min_length=1)]
    score: _Score | None = None


def known_suites() -> Mapping[str, Path]:
    """Return the suites of this package by name."""
    folder = Path(str(files("cosmos_eval.protocols"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_suite(name_or_file: str) -> Suite:
    """Read a suite of this package by its name, or that of a YAML file.

    Raises UsageError that names the file and what in it is missing, unknown or given twice.
    """
    return _read(name_or_file, _suite)


def read_score(name_or_file: str) -> tuple[SuiteMember, ...]:
    """Read the members of a suite's mean, which have metrics of one unit and direction.

    Raises UsageError where the suite has no score, and as `read_suite`. Models may be missing.
    """
    return _read(name_or_file, _score)


def _read(name_or_file: str, read: Callable[[_File, Path], _Read]) -> _Read:
    known = known_suites()
    path = known.get(name_or_file, Path(name_or_file))
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"unknown suite {name_or_file!r}; known: {nearest(name_or_file, list(known))}; "
            "or a .yaml file of your own"
        )
    try:
        content = parse(_File, read_yaml(path, "models: [scenes-cosmos]"))
        return read(content, path.parent)
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None


def _suite(content: _File, folder: Path) -> Suite:
    models = tuple(located(text, folder) for text in content.models)
    for text in models:
        parse_model_spec(text)
    protocols = _protocols(content, folder)
    refuse_repeated(models, "models: ")
    if content.score is not None:
        _members(content.score, protocols)
    return Suite(models, protocols)


def _protocols(content: _File, folder: Path) -> tuple[Protocol, ...]:
    named = ((name, family) for family, names in content.datasets.items() for name in names)
    protocols = tuple(_protocol(*one, folder) for one in named)
    refuse_repeated([f"{p.dataset} ({p.family})" for p in protocols], "datasets: ")
    return protocols


def _score(content: _File, folder: Path) -> tuple[SuiteMember, ...]:
    if content.score is None:
        raise UsageError("the suite has no `score`: add one, such as `score: {metric: acc1}`")
    return _members(content.score, _protocols(content, folder))


def _members(score: _Score, protocols: Sequence[Protocol]) -> tuple[SuiteMember, ...]:
    families = list(dict.fromkeys(p.family for p in protocols))
    chosen = [p for p in protocols if p.family in (score.families or families)]
    _require_known("score.families", score.families or [], families)
    _require_known("score.metrics", score.metrics, [p.dataset for p in chosen])
    members = tuple(_member(p, score.metrics.get(p.dataset, score.metric)) for p in chosen)
    kinds: dict[tuple[str, bool], str] = {}
    for member in members:
        for metric in (metric_of(member.task, name) for name in member.metrics):
            kind = (metric.unit, metric.higher_is_better)
            kinds.setdefault(kind, f"{metric.name} of {member.dataset}")
    if len(kinds) > 1:
        listed = (
            f"{name} ({unit}, {'higher' if higher else 'lower'} is better)"
            for (unit, higher), name in kinds.items()
        )
        raise UsageError(f"score: no mean of different kinds of metrics: {', '.join(listed)}")
    return members


def _require_known(where: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{where}: unknown member '{name}'; known: {nearest(name, known)}")


def _member(protocol: Protocol, name: str | None) -> SuiteMember:
    task = task_of(protocol)
    records = task_named(task).metrics
    known = [metric.name for metric in records if metric.members is None]
    if name is not None and name not in known:
        where = f"score: {protocol.dataset} has no metric '{name}'"
        raise UsageError(f"{where}; {task} has {nearest(name, known)}")
    primary = tuple(metric.name for metric in records if metric.primary)
    chosen = name or protocol.main_metric
    metrics = primary if chosen is None else (chosen,)
    return SuiteMember(task, protocol.dataset, protocol.family, metrics)


def _protocol(name: str, family: str, folder: Path) -> Protocol:
    if Path(name).suffix not in _SUFFIXES:
        return find_protocol(name, family)
    if family != USER:
        raise FileError(f"{name} states its own protocol: list it under `{USER}`, not `{family}`")
    return find_protocol(str(folder / name))


def refuse_repeated(names: Sequence[str], where: str = "") -> None:
    """Raise UsageError for repeated names: the second result would replace the first one."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}{name} is given twice")
