"""The registry of tasks: each is a `Task` record, which its module calls `TASK`.

Modules are imported when a task is looked up, and import torch only to measure. Other packages
bring tasks of their own by entry points of the group `cosmos_eval.tasks`, which name a `Task`.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from cosmos_eval.tasks.task import Metric, Task
from cosmos_eval.types import Protocol, UsageError, nearest

_MODULES: Mapping[str, str] = {
    "retrieval": "cosmos_eval.tasks.retrieval",
    "cls": "cosmos_eval.tasks.classification",
    "multilabel": "cosmos_eval.tasks.multilabel",
    "faces": "cosmos_eval.tasks.faces",
    "seg": "cosmos_eval.tasks.segmentation",
    "select": "cosmos_eval.tasks.selection",
    "loc": "cosmos_eval.tasks.localisation",
    "assoc": "cosmos_eval.tasks.association",
    "probe": "cosmos_eval.tasks.probe",
}
TASKS = tuple(_MODULES)
"""The names of the tasks of this package, in the order of tables."""

_NAME = re.compile("[a-z][a-z0-9_-]*")  # as schema.json has it


class _Known(Mapping[str, Task]):
    """The tasks of this package, then those of others, which are loaded when they are looked up."""

    def __getitem__(self, name: str) -> Task:
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        yield from TASKS
        yield from _entries()

    def __len__(self) -> int:
        return len(TASKS) + len(_entries())

    def __contains__(self, name: object) -> bool:
        return name in TASKS or name in _entries()


def known_tasks() -> Mapping[str, Task]:
    """All tasks by name, this package's own first. A look-up raises UsageError for a broken one."""
    return _Known()


@cache
def _entries() -> Mapping[str, EntryPoint]:
    """Entry points of packages by task. Raises UsageError for a name that no new task can have."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group="cosmos_eval.tasks"):
        name, task = entry.name, f"{_described(entry)} brings a task '{entry.name}'"
        if not _NAME.fullmatch(name) or name == "all":
            raise UsageError(f"{task}: a name is of small letters, digits, - and _, and not 'all'")
        if name in TASKS:
            raise UsageError(f"{task}, which cosmos-eval has itself")
        if name in found:
            both = f"{_described(found[name])} and {_described(entry)}"
            raise UsageError(f"{both} both bring a task '{name}': uninstall one of them")
        found[name] = entry
    return found


@cache
def _load(name: str) -> Task:
    """Return a task. Raises KeyError for an unknown one, UsageError for one that is broken."""
    if name in TASKS:
        return cast(Task, import_module(_MODULES[name]).TASK)
    entry = _entries()[name]
    where = f"task '{name}' of {_described(entry)}"
    try:
        found = entry.load()
    except Exception as error:
        raise UsageError(
            f"{where} cannot be loaded: {type(error).__name__}: {error} (--debug shows where)"
        ) from error
    if not isinstance(found, Task):
        raise UsageError(f"{where}: {type(found).__name__} is no cosmos_eval.tasks.Task")
    return found


def _described(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def packages_of(task: str) -> dict[str, str]:
    """The package that brings a task and its version; empty for a task of this package."""
    package = None if task in TASKS else _entries()[task].dist
    return {package.name: package.version} if package else {}


def task_named(name: str) -> Task:
    """A task by its name. Raises UsageError with the nearest known names."""
    known = known_tasks()
    if name not in known:
        raise UsageError(
            f"unknown task '{name}'; known: {nearest(name, list(known))}; "
            "others are brought by packages, which must be installed"
        )
    return known[name]


def task_of(protocol: Protocol) -> str:
    """The name of the task that a protocol belongs to."""
    for name, task in known_tasks().items():
        if task.protocol is type(protocol):
            return name
    raise UsageError(f"{type(protocol).__name__} is the protocol of no task")


def task_for(protocol: Protocol) -> Task:
    """The task that a protocol belongs to."""
    return task_named(task_of(protocol))


def metric_of(task: str, name: str) -> Metric:
    """A metric by its task and name; its unit is unknown if the task is not installed."""
    known = known_tasks()
    return known[task].metric(name) if task in known else Metric(name, unit="unknown")


def find_protocol(name_or_file: str, family: str | None = None) -> Protocol:
    """A known data set by name and family (None: the usual one), or that of a YAML file.

    Raises UsageError with the nearest known names, or what is wrong in the file.
    """
    from cosmos_eval.data.user_yaml import read_protocol
    from cosmos_eval.protocols import find_known  # which makes images

    if Path(name_or_file).suffix not in (".yaml", ".yml"):
        return find_known(name_or_file, family)
    if family is not None:
        raise UsageError(f"{name_or_file} states its own protocol: leave --protocol out")
    known = known_tasks()
    return read_protocol(Path(name_or_file), list(known), lambda kind: known[kind].protocol)
