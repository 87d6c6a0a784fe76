"""Run a command as if some packages were not installed.

`python -m support.without_packages MODULE,MODULE PROGRAM ARGUMENT...`, where PROGRAM is the module
cosmos_eval.cli.app or cosmos_core.cli, whose `main` is called.
"""

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder, packages_distributions
from typing import Any


class Finder:
    """Finds the modules and the distributions on the path, except hidden ones."""

    def __init__(self, modules: Iterable[str]) -> None:
        """Hide modules by their top-level names, and the distributions that have them."""
        self._modules = set(modules)
        distributions_by_module = packages_distributions()
        self._distributions = set()
        for module in self._modules:
            self._distributions |= set(distributions_by_module.get(module, ()))

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the specification of a module, or None if it is hidden or does not exist."""
        if name.partition(".")[0] in self._modules:
            return None
        return PathFinder.find_spec(name, path, target)

    def find_distributions(self, context: DistributionFinder.Context) -> list[Distribution]:
        """Return the distributions that are not hidden."""
        return [
            distribution
            for distribution in PathFinder.find_distributions(context)
            if distribution.metadata["Name"] not in self._distributions
        ]


if __name__ == "__main__":
    hidden_modules, program, *arguments = sys.argv[1:]
    position = sys.meta_path.index(PathFinder)
    sys.meta_path[position] = Finder(hidden_modules.split(","))  # type: ignore[call-overload]
    sys.argv = [program, *arguments]
    import_module(program).main()
