"""Suites: YAML files of `datasets` by protocol family, and perhaps of `models` and a `score`.
Imports no torch.

Every model is measured on every data set. Files that a suite names are relative to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from cosmos_eval.data.readers import CONFIG, FileError, Text, parse, read_yaml
from cosmos_eval.data.user_yaml import FAMILY as USER
from cosmos_eval.models.specs import labelled, located, parse_model_spec
from cosmos_eval.tasks import find_protocol, metric_of, task_named
from cosmos_eval.types import Protocol, Suite, SuiteMember, UsageError, nearest

_SUFFIXES = (".yaml", ".yml")
_Names = Annotated[list[Text], Field(min_length=1)]


class _Score(BaseModel):
    """The mean over the data sets of some families (None: all) of a metric, which `metrics` states
    for single data sets, or else of the main metric of each or its task's primary ones. Each list
    of `as_one` counts as one data set."""

    model_config = CONFIG

    families: _Names | None = None
    metric: Text | None = None
    metrics: dict[Text, Text] = {}
    as_one: list[_Names] = []


class _Model(BaseModel):
    """A model as `--model` takes it, and what results call it."""

    model_config = CONFIG

    model: Text
    name: Text | None = None


_Listed = Annotated[_Model, BeforeValidator(lambda v: {"model": v} if isinstance(v, str) else v)]


class _File(BaseModel):
    model_config = CONFIG

    models: Annotated[list[_Listed], Field(min_length=1)] | None = None
    datasets: Annotated[dict[Text, _Names], Field(min_length=1)]
    score: _Score | None = None
    left_out: dict[Text, Text] = {}
    source: Text | None = None


def known_suites() -> Mapping[str, Path]:
    """Return the suites of this package by name."""
    folder = Path(str(files("cosmos_eval.protocols"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_suite(name_or_file: str, *, with_models: bool = True) -> Suite:
    """Read a suite of this package by its name, or that of a YAML file; its models only if they
    are to be used.

    Raises UsageError that names the file and what in it is missing, unknown or given twice.
    """
    known = known_suites()
    path = known.get(name_or_file, Path(name_or_file))
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"unknown suite {name_or_file!r}; known: {nearest(name_or_file, list(known))}; "
            "or a .yaml file of your own"
        )
    try:
        content = parse(_File, read_yaml(path, "datasets: {scenes: [scenes-cls]}"))
        return _suite(content, path, content.models or [] if with_models else [])
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None


def read_score(name_or_file: str) -> Suite:
    """Read a suite that has members of a mean, whose metrics have one unit and direction.

    Raises UsageError where the suite has no score, and as `read_suite`. Models may be missing.
    """
    suite = read_suite(name_or_file, with_models=False)
    if not suite.members:
        raise UsageError(
            f"suite {name_or_file} has no `score`: add one to a file of yours, such as "
            "`score: {metric: acc1}`"
        )
    return suite


def _suite(content: _File, path: Path, models: Sequence[_Model]) -> Suite:
    located_models = tuple(located(one.model, path.parent) for one in models)
    names = tuple(one.name for one in models)
    specs = labelled([*map(parse_model_spec, located_models)], names)
    protocols = _protocols(content, path.parent)
    refuse_repeated(located_models, "models: ")
    refuse_repeated([spec.called for spec in specs], "models: ")
    for name in content.left_out:
        if name in (protocol.dataset for protocol in protocols):
            raise UsageError(f"left_out: {name} is one of `datasets`")
    members = () if content.score is None else _members(content.score, protocols)
    about = (content.left_out, content.source or "")
    return Suite(path.stem, located_models, names, protocols, members, *about)


def _protocols(content: _File, folder: Path) -> tuple[Protocol, ...]:
    named = ((name, family) for family, names in content.datasets.items() for name in names)
    protocols = tuple(_protocol(*one, folder) for one in named)
    refuse_repeated([f"{p.dataset} ({p.family})" for p in protocols], "datasets: ")
    return protocols


def _members(score: _Score, protocols: Sequence[Protocol]) -> tuple[SuiteMember, ...]:
    families = list(dict.fromkeys(p.family for p in protocols))
    chosen = [p for p in protocols if p.family in (score.families or families)]
    _require_known("score.families", score.families or [], families)
    _require_known("score.metrics", score.metrics, [p.dataset for p in chosen])
    weights = {name: 1 / len(names) for names in score.as_one for name in names}
    _require_known("score.as_one", weights, [p.dataset for p in chosen])
    refuse_repeated([*chain.from_iterable(score.as_one)], "score.as_one: ")
    members = tuple(
        _member(p, score.metrics.get(p.dataset, score.metric), weights.get(p.dataset, 1.0))
        for p in chosen
    )
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


def _member(protocol: Protocol, name: str | None, weight: float) -> SuiteMember:
    task = protocol.task
    records = task_named(task).metrics
    known = [metric.name for metric in records if metric.members is None]
    if name is not None and name not in known:
        where = f"score: {protocol.dataset} has no metric '{name}'"
        raise UsageError(f"{where}; {task} has {nearest(name, known)}")
    primary = tuple(metric.name for metric in records if metric.primary)
    chosen = name or protocol.main_metric
    metrics = primary if chosen is None else (chosen,)
    return SuiteMember(task, protocol.dataset, protocol.family, metrics, weight)


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
