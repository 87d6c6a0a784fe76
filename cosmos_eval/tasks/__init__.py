"""The registry of tasks: each is an instance of a subclass of `Task`, called `TASK` in its module.

Modules are imported when a task is looked up, and import torch only to measure. Other packages
bring tasks of their own by entry points of the group `cosmos_eval.tasks`, which name a subclass.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple, cast

from cosmos_eval.tasks.metric import Metric
from cosmos_eval.tasks.task import Task
from cosmos_eval.types import TASKS_BY_WORD, Protocol, UsageError, nearest

_MODULES: Mapping[str, str] = {
    "retrieval": "cosmos_eval.tasks.retrieval",
    "cls": "cosmos_eval.tasks.classification",
    "multilabel": "cosmos_eval.tasks.multilabel",
    "faces": "cosmos_eval.tasks.faces",
    "seg": "cosmos_eval.tasks.segmentation",
    "select": "cosmos_eval.tasks.selection",
    "loc": "cosmos_eval.tasks.localisation",
    "assoc": "cosmos_eval.tasks.association",
    "ratings": "cosmos_eval.tasks.ratings",
    "probe": "cosmos_eval.tasks.probe",
    "ood": "cosmos_eval.tasks.ood",
    "seg-probe": "cosmos_eval.tasks.dense_probe.segmentation",
    "depth-probe": "cosmos_eval.tasks.dense_probe.depth",
    "boxes": "cosmos_eval.tasks.boxes",
    "ranking": "cosmos_eval.tasks.ranking",
}
TASKS = tuple(_MODULES)
"""The names of the tasks of this package, in the order of tables."""

_TASK_NAME_PATTERN = re.compile("[a-z][a-z0-9_-]*")  # as schema.json has it


class _Tasks(Mapping[str, Task]):
    """All tasks by name. A task is loaded when it is looked up.

    The tasks of this package come first, then the tasks that other packages bring.
    """

    def __getitem__(self, name: str) -> Task:
        """Return the task with a name. Raises KeyError for an unknown name."""
        return _load_task(name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all tasks."""
        yield from TASKS
        yield from _find_installed_tasks().entry_points

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(TASKS) + len(_find_installed_tasks().entry_points)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a task with a name. It is not loaded."""
        return name in TASKS or name in _find_installed_tasks().entry_points


def known_tasks() -> Mapping[str, Task]:
    """Return all tasks by name, the tasks of this package first.

    A task is loaded when it is looked up, which raises UsageError if the package that brings the
    task is broken. Tasks whose names cannot be used are left out. `name_faults` says why.
    """
    return _Tasks()


class _InstalledTasks(NamedTuple):
    """The tasks that other packages bring."""

    # The entry points of the tasks whose names can be used, by name.
    entry_points: dict[str, EntryPoint]
    # The reason why a name cannot be used, by name.
    faults: dict[str, str]


@cache
def _find_installed_tasks() -> _InstalledTasks:
    """Find the tasks that other packages bring, without loading them.

    Such a package has an entry point of the group `cosmos_eval.tasks`, whose name is the name of
    the task. A name that cannot be used is recorded, but raises no error: it must not break other
    tasks. If two packages bring tasks of the same name, neither task can be used.
    """
    entry_point_by_name: dict[str, EntryPoint] = {}
    fault_by_name: dict[str, str] = {}
    for entry_point in entry_points(group="cosmos_eval.tasks"):
        name = entry_point.name
        package = _describe_package(entry_point)
        is_valid_name = _TASK_NAME_PATTERN.fullmatch(name) and name != "all"
        if not is_valid_name:
            fault_by_name[name] = (
                f"{package} brings a task '{name}': "
                "use small letters, digits, - and _, and not 'all'"
            )
        elif name in TASKS:
            fault_by_name[name] = f"{package} brings a task '{name}', which cosmos-eval has itself"
        elif name in entry_point_by_name:
            first_package = _describe_package(entry_point_by_name[name])
            fault_by_name[name] = (
                f"{first_package} and {package} both bring a task '{name}': uninstall one of them"
            )
        else:
            entry_point_by_name[name] = entry_point

    # A second task of the same name makes the first one unusable as well.
    usable_entry_points = {
        name: entry_point
        for name, entry_point in entry_point_by_name.items()
        if name not in fault_by_name
    }
    return _InstalledTasks(usable_entry_points, fault_by_name)


def name_faults() -> Mapping[str, str]:
    """Return the installed tasks that cannot be used because of their names.

    The keys are the names, and the values are messages that say what is wrong with them.
    """
    return _find_installed_tasks().faults


@cache
def _load_task(name: str) -> Task:
    """Import the module or package of a task, and return the task.

    Raises KeyError for an unknown task, and UsageError for a broken one.
    """
    if name in TASKS:
        return cast(Task, import_module(_MODULES[name]).TASK)
    return _load_installed_task(name, _find_installed_tasks().entry_points[name])


def _load_installed_task(name: str, entry: EntryPoint) -> Task:
    """Load a task that another package brings.

    Args:
        name: The name of the task.
        entry: The entry point of the package, which names a subclass of `Task`.

    Raises UsageError if the class cannot be imported, is not a complete subclass of `Task`, or has
    protocols that do not state the name of the task.
    """
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
    except TypeError as error:  # an abstract method is missing
        raise UsageError(f"{origin}: {error}") from error

    # The protocol must state the task itself: an inherited name belongs to another task.
    protocol_type: type[Protocol] = task.protocol
    stated_name = vars(protocol_type).get("task")
    if stated_name != name:
        raise UsageError(
            f"{origin}: its protocol {protocol_type.__name__} needs "
            f'`task: ClassVar[str] = "{name}"`'
        )
    return task


def _describe_package(entry: EntryPoint) -> str:
    """Return the name and version of an entry point's package, such as `my-tasks 1.2`.

    If the package is unknown, return the object that the entry point names.
    """
    if entry.dist is None:
        return entry.value
    return f"{entry.dist.name} {entry.dist.version}"


def packages_of(task: str) -> dict[str, str]:
    """Return the name and version of the package that brings a task: `{"my-tasks": "1.2"}`.

    The mapping is empty for a task of this package, and if the package is unknown.
    """
    if task in TASKS:
        return {}
    distribution = _find_installed_tasks().entry_points[task].dist
    if distribution is None:
        return {}
    return {distribution.name: distribution.version}


def task_named(name: str) -> Task:
    """Return the task with a name, such as `retrieval`.

    Raises UsageError for an unknown task, with the nearest known names, and for a task whose
    package is broken.
    """
    if name not in TASKS:  # tables look up a task for each of their numbers
        require_task(name)
    return _load_task(name)


def require_task(name: str) -> None:
    """Raise UsageError for an unknown task, with the nearest known names. No task is loaded."""
    if name in known_tasks():
        return
    faults = name_faults()
    if name in faults:
        raise UsageError(faults[name])
    nearest_names = nearest(name, [*known_tasks(), *TASKS_BY_WORD])
    raise UsageError(
        f"unknown task '{name}'; nearest: {nearest_names}; "
        "others are brought by packages, which must be installed"
    )


def usable_task(name: str) -> Task | None:
    """Return the task with a name, or None if it is not installed or its package is broken.

    It serves tables, which show the results of a missing task without units and ranks.
    """
    try:
        return task_named(name)
    except UsageError:
        return None


def task_for(protocol: Protocol) -> Task:
    """Return the task that measures a protocol. Raises UsageError if it cannot be used."""
    return task_named(protocol.task)


def metric_of(task: str, name: str) -> Metric:
    """Return a metric of a task by their names, such as `metric_of("seg", "mIoU")`.

    If the task is not installed or broken, return a metric whose unit is `unknown`.
    """
    loaded_task = usable_task(task)
    if loaded_task is None:
        return Metric(name, unit="unknown")
    return loaded_task.metric(name)


def find_protocol(
    dataset: str | os.PathLike[str] | Mapping[str, Any] | Protocol,
    protocol_name: str | None = None,
) -> Protocol:
    """Return the protocol by which a data set is measured: its classes, prompts and constants.

    Args:
        dataset: The name of a known data set such as `voc20`, the path of a YAML file, a mapping
            with the keys of such a file, or a protocol, which is returned as it is.
        protocol_name: The name of one of the protocols of a known data set; None for the usual
            one. It must be None unless `dataset` is the name of a known data set.

    Raises UsageError for an unknown name, with the nearest known ones, for a faulty file, and for
    an object that is none of these.
    """
    from cosmos_eval.data.user_yaml import parse_protocol, read_protocol
    from cosmos_eval.protocols import find_known  # which makes images

    if isinstance(dataset, os.PathLike):
        dataset = os.fspath(dataset)
    if not isinstance(dataset, str | Mapping | Protocol):
        raise UsageError(
            "a data set must be a name, a YAML file, a dict with the keys of such a file, or a "
            f"protocol, not {type(dataset).__name__}"
        )
    is_path = isinstance(dataset, str) and Path(dataset).suffix in (".yaml", ".yml")
    if isinstance(dataset, str) and not is_path:
        return find_known(dataset, protocol_name)
    if protocol_name is not None:
        raise UsageError(f"{dataset} states its own protocol: leave --protocol out")
    if isinstance(dataset, Protocol):
        return dataset
    tasks = known_tasks()

    def find_protocol_type(task_name: str) -> type[Protocol]:
        """Return the class of the protocols of a task."""
        return tasks[task_name].protocol

    if isinstance(dataset, str):
        return read_protocol(Path(dataset), list(tasks), find_protocol_type)
    return parse_protocol(dataset, list(tasks), find_protocol_type)
