"""Training methods, one per file: the views of a sample, a model, and a loss of its features.

A file holds one class that satisfies `cosmos_core.types.Method`, a frozen dataclass. Methods of
this package are named by their files. Other files are found by their paths.
"""

import inspect
import runpy
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from cosmos_core.types import Method

MEMBERS = [name for name in vars(Method) if not name.startswith("_")]


def method_of(module: Mapping[str, Any], source: str) -> Callable[[], Method]:
    """Return the method class that a module defines; `module` holds the module's names.

    Raises ValueError, with `source`, unless the module defines exactly one, complete class.
    """
    classes: list[Any] = []
    for value in module.values():
        is_method = inspect.isclass(value) and hasattr(value, "loss")
        if is_method and value.__module__ == module["__name__"]:
            classes.append(value)
    if len(classes) != 1:
        raise ValueError(f"{source} defines {len(classes)} classes with a `loss`: it takes one")
    method_class = classes[0]
    missing_members = [name for name in MEMBERS if not hasattr(method_class, name)]
    if missing_members:
        names = ", ".join(missing_members)
        raise ValueError(f"{source}: the method {method_class.__name__} lacks {names}")
    return method_class


METHODS: dict[str, Callable[[], Method]] = {
    module.name: method_of(vars(import_module(f"{__name__}.{module.name}")), module.name)
    for module in iter_modules(__path__)
}


def load_method(path: Path) -> Method:
    """Run a Python file and return the method that it defines, with default options.

    Raises ValueError, one line, if the file cannot be run or defines no method.
    """
    try:
        module = runpy.run_path(str(path), run_name="cosmos_method")
    except Exception as error:  # the user's code can raise any kind
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return method_of(module, str(path))()
