"""Training methods, one per file: the views of a sample, a model, and a loss of its features. A
file holds one class that satisfies `cosmos_core.types.Method`, a frozen dataclass. A file of this
package is found by its name, which is the method's, any other by its path."""

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
    """Return the method that the names of a module define. Raises ValueError unless it is one."""
    classes = [c for c in module.values() if inspect.isclass(c) and hasattr(c, "loss")]
    own: list[Any] = [c for c in classes if c.__module__ == module["__name__"]]
    if len(own) != 1:
        raise ValueError(f"{source} defines {len(own)} classes with a `loss`: it takes one")
    if missing := [name for name in MEMBERS if not hasattr(own[0], name)]:
        raise ValueError(f"{source}: the method {own[0].__name__} lacks {', '.join(missing)}")
    return own[0]


METHODS: dict[str, Callable[[], Method]] = {
    module.name: method_of(vars(import_module(f"{__name__}.{module.name}")), module.name)
    for module in iter_modules(__path__)
}


def load_method(path: Path) -> Method:
    """Run a Python file and create the method that it defines, with its default options. Raises
    ValueError, one line, where the file cannot be run or defines no method."""
    try:
        module = runpy.run_path(str(path), run_name="cosmos_method")
    except Exception as error:  # of the user's own code
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return method_of(module, str(path))()
