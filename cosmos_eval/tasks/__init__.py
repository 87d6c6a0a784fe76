"""The registry of tasks: each is an instance of a subclass of `Task`, called `TASK` in its module.

Modules are imported when a task is looked up, and import torch only to measure. Other packages
bring tasks of their own by entry points of the group `cosmos_eval.tasks`, which name a subclass.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple, cast

from cosmos_eval.tasks.metric import Metric
from cosmos_eval.tasks.task import Task
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


class _Tasks(Mapping[str, Task]):
    """The tasks of this package and then the tasks of other packages, loaded on look-up."""

    def __getitem__(self, name: str) -> Task:
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        yield from TASKS
        yield from _find_installed().entry_points

    def __len__(self) -> int:
        return len(TASKS) + len(_find_installed().entry_points)

    def __contains__(self, name: object) -> bool:
        return name in TASKS or name in _find_installed().entry_points


def known_tasks() -> Mapping[str, Task]:
    """Return all tasks by name, the tasks of this package first.

    A look-up raises UsageError if the package that brings the task is broken. Tasks whose names
    cannot be used are left out; `name_faults` says why.
    """
    return _Tasks()


class _InstalledTasks(NamedTuple):
    """The tasks that other packages bring, by name."""

    entry_points: dict[str, EntryPoint]
    # The reason why a name cannot be used.
    faults: dict[str, str]


@cache
def _find_installed() -> _InstalledTasks:
    """Return the tasks that other packages bring, without loading them.

    A name that cannot be used is not an error here: it must not break the other tasks.
    """
    entries: dict[str, EntryPoint] = {}
    faults: dict[str, str] = {}
    for entry in entry_points(group="cosmos_eval.tasks"):
        name, task = entry.name, f"{_describe_package(entry)} brings a task '{entry.name}'"
        if not _NAME.fullmatch(name) or name == "all":
            faults[name] = f"{task}: use small letters, digits, - and _, and not 'all'"
        elif name in TASKS:
            faults[name] = f"{task}, which cosmos-eval has itself"
        elif name in entries:
            packages = f"{_describe_package(entries[name])} and {_describe_package(entry)}"
            faults[name] = f"{packages} both bring a task '{name}': uninstall one of them"
        else:
            entries[name] = entry
    usable = {name: entry for name, entry in entries.items() if name not in faults}
    return _InstalledTasks(usable, faults)


def name_faults() -> Mapping[str, str]:
    """Return the names of installed tasks that cannot be used, with the reason."""
    return _find_installed().faults


@cache
def _load(name: str) -> Task:
    """Return a task. Raises KeyError for an unknown task, UsageError for one that is broken."""
    if name in TASKS:
        return cast(Task, import_module(_MODULES[name]).TASK)
    return _load_installed(name, _find_installed().entry_points[name])


def _load_installed(name: str, entry: EntryPoint) -> Task:
    """Return a task of another package. Raises UsageError if it is broken."""
    origin = f"task '{name}' of {_describe_package(entry)}"
    try:
        task_class = entry.load()
    except Exception as error:
        raise UsageError(
            f"{origin} cannot be loaded: {type(error).__name__}: {error} (--debug shows where)"
        ) from error
    if not (isinstance(task_class, type) and issubclass(task_class, Task)):
        raise UsageError(f"{origin}: {entry.value} is not a subclass of cosmos_eval.tasks.Task")
    try:
        task = task_class()
    except TypeError as error:  # a method is missing
        raise UsageError(f"{origin}: {error}") from error
    protocol: type[Protocol] = task.protocol
    if vars(protocol).get("task") != name:  # not inherited: a subclass belongs to another task
        raise UsageError(
            f'{origin}: its protocol {protocol.__name__} needs `task: ClassVar[str] = "{name}"`'
        )
    return task


def _describe_package(entry: EntryPoint) -> str:
    """Return the name and version of an entry point's package, for messages."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def packages_of(task: str) -> dict[str, str]:
    """Return the package that brings a task, and its version; empty for a task of this package."""
    if task in TASKS:
        return {}
    package = _find_installed().entry_points[task].dist
    return {package.name: package.version} if package else {}


def task_named(name: str) -> Task:
    """Return a task by its name. Raises UsageError for an unknown and for a broken one."""
    tasks = known_tasks()
    if name in tasks:
        return tasks[name]
    if name in name_faults():
        raise UsageError(name_faults()[name])
    raise UsageError(
        f"unknown task '{name}'; known: {nearest(name, list(tasks))}; "
        "others are brought by packages, which must be installed"
    )


def usable_task(name: str) -> Task | None:
    """Return a task by its name, or None if it is not installed or its package is broken.

    Tables use it to show results of such a task, without units and ranks, beside other results.
    """
    try:
        return task_named(name)
    except UsageError:
        return None


def task_for(protocol: Protocol) -> Task:
    """Return the task that a protocol belongs to."""
    return task_named(protocol.task)


def metric_of(task: str, name: str) -> Metric:
    """Return a metric by the name of its task and its own name.

    Its unit is `unknown` if the task cannot be used.
    """
    loaded_task = usable_task(task)
    return Metric(name, unit="unknown") if loaded_task is None else loaded_task.metric(name)


def find_protocol(
    dataset: str | Mapping[str, Any] | Protocol, protocol_name: str | None = None
) -> Protocol:
    """Return the protocol of a data set.

    `dataset` is the name of a known data set, a YAML file, a mapping with the keys of such a file,
    or a protocol. `protocol_name` is the protocol of a known data set; None: the usual one. Raises
    UsageError with the nearest known names, or with the fault of the file.
    """
    from cosmos_eval.data.user_yaml import parse_protocol, read_protocol
    from cosmos_eval.protocols import find_known  # which makes images

    if isinstance(dataset, str) and Path(dataset).suffix not in (".yaml", ".yml"):
        return find_known(dataset, protocol_name)
    if protocol_name is not None:
        raise UsageError(f"{dataset} states its own protocol: leave --protocol out")
    if isinstance(dataset, Protocol):
        return dataset
    tasks = known_tasks()

    def protocol_of(kind: str) -> type[Protocol]:
        return tasks[kind].protocol

    if isinstance(dataset, str):
        return read_protocol(Path(dataset), list(tasks), protocol_of)
    return parse_protocol(dataset, list(tasks), protocol_of)
