"""Training methods, one in each file: which views of a sample they need, their model, their loss.

Each file defines one class that satisfies `cosmos_core.types.Method`, a frozen dataclass. METHODS
holds the methods of this package under the names of their files. `load_method` reads other files.
"""

import inspect
import runpy
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from cosmos_core.types import Method

# The names of the methods and properties that every training method has.
MEMBERS = [name for name in vars(Method) if not name.startswith("_")]


def find_method_class(namespace: Mapping[str, Any], source: str) -> Callable[[], Method]:
    """Return the class of the training method that a Python module defines.

    Args:
        namespace: The values of the module by name, as `vars(module)` returns them.
        source: The name of the module in error messages.

    Raises:
        ValueError: If the module does not define exactly one class with a method `loss`, or if this
            class lacks one of MEMBERS.
    """
    classes: list[Any] = []
    for value in namespace.values():
        has_loss = inspect.isclass(value) and hasattr(value, "loss")
        # A class that the module imports has the name of another module.
        if has_loss and value.__module__ == namespace["__name__"]:
            classes.append(value)
    if len(classes) != 1:
        raise ValueError(
            f"{source} defines {len(classes)} classes with a method `loss`: define exactly one"
        )

    method_class = classes[0]
    missing_members = [name for name in MEMBERS if not hasattr(method_class, name)]
    if missing_members:
        names = ", ".join(missing_members)
        raise ValueError(f"{source}: the method {method_class.__name__} lacks {names}")
    return method_class


def _import_methods() -> dict[str, Callable[[], Method]]:
    """Import the files of this package, and return their method classes by the files' names."""
    methods = {}
    for module_info in iter_modules(__path__):
        module = import_module(f"{__name__}.{module_info.name}")
        methods[module_info.name] = find_method_class(vars(module), module_info.name)
    return methods


METHODS = _import_methods()


def load_method(path: Path) -> Method:
    """Run a Python file, and return the training method that it defines, with default options.

    Args:
        path: The Python file. It is trusted: its code runs in this process.

    Raises:
        ValueError: If the file raises an error or defines no method. The message has one line.
    """
    try:
        namespace = runpy.run_path(str(path), run_name="cosmos_method")
    except Exception as error:  # the user's code can raise errors of any kind
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    method_class = find_method_class(namespace, str(path))
    return method_class()
