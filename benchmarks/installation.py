"""`python benchmarks/installation.py [--json]`: the size of each required package once installed.

The size of a package is that of its files in the running environment, which must have the extra
`all`. The script also prints how much smaller an installation would be if the project did not
require the package: the sizes of the package and of the packages that nothing else requires. For a
package of an extra, this is what the package adds to a plain installation.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import NamedTuple

import tomllib
from _report import parser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Column, Table

ROOT = Path(__file__).parents[1]
PLAIN = "plain"
ALL = "all"
TORCH = ("torch", "torchvision")


class Weight(NamedTuple):
    """The size of a required package."""

    package: str
    # The extra that requires it, or "plain".
    extra: str
    # The size of the files of the package.
    megabytes: float
    # How many packages would no longer be installed without it, itself included, and their size.
    alone_packages: int
    alone_megabytes: float
    # The number of modules of the project that import it.
    imported_by: int


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "").parse_args()
    weights = sorted(weigh(), key=lambda weight: -weight.alone_megabytes)
    plain = required_packages(requirements_by_extra()[PLAIN])
    torch = required_packages(Requirement(name) for name in TORCH)
    totals = {"a plain installation": plain, "of these, torch's own": torch}
    if arguments.json:
        rows = [weight._asdict() for weight in weights]
        for name, packages in totals.items():
            rows.append({"name": name, "packages": len(packages), "megabytes": megabytes(packages)})
        print(json.dumps(rows, indent=2))
        return
    print_table(weights)
    for name, packages in totals.items():
        print(f"{name}: {len(packages)} packages, {megabytes(packages):.0f} MB")


def weigh() -> list[Weight]:
    """Return the size of every required package, also of those that extras require."""
    requirements = requirements_by_extra()
    plain = required_packages(requirements[PLAIN])
    importing_modules = count_importing_modules()
    weights = []
    for extra, extra_requirements in requirements.items():
        for requirement in extra_requirements:
            if extra == PLAIN:
                remaining = [each for each in extra_requirements if each is not requirement]
                alone = plain - required_packages(remaining)
            else:
                alone = required_packages([requirement]) - plain
            name = canonicalize_name(requirement.name)
            weight = Weight(
                requirement.name,
                extra,
                megabytes([name]),
                len(alone),
                megabytes(alone),
                importing_modules[name],
            )
            weights.append(weight)
    return weights


def requirements_by_extra() -> dict[str, list[Requirement]]:
    """Return the requirements in pyproject.toml of a plain installation and of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = {PLAIN: [Requirement(text) for text in project["dependencies"]]}
    extras = project["optional-dependencies"]
    for extra in sorted(Requirement(extras[ALL][0]).extras):
        requirements[extra] = [Requirement(text) for text in extras[extra]]
    return requirements


def required_packages(requirements: Iterable[Requirement]) -> set[str]:
    """Return the names of the packages that are installed for requirements.

    Packages that the required packages require are among them.
    """
    packages: set[str] = set()
    visited = set()
    waiting = [(canonicalize_name(each.name), frozenset(each.extras)) for each in requirements]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in visited:
            continue
        visited.add((name, extras))
        packages.add(name)
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return packages


def megabytes(packages: Iterable[str]) -> float:
    """Return the size of the files of packages in this environment, in millions of bytes."""
    n_bytes = 0
    for package in packages:
        for file in distribution(package).files or ():
            path = Path(str(file.locate()))
            if path.is_file():
                n_bytes += path.stat().st_size
    return n_bytes / 1e6


def count_importing_modules() -> Counter[str]:
    """Return how many modules of the project import each package, also inside functions."""
    packages_by_module = packages_distributions()
    counts: Counter[str] = Counter()
    for folder in ("cosmos_core", "cosmos_eval"):
        for path in (ROOT / folder).rglob("*.py"):
            packages = set()
            for module in imported_modules(ast.parse(path.read_text("utf-8"))):
                packages |= {canonicalize_name(name) for name in packages_by_module.get(module, ())}
            counts.update(packages)
    return counts


def imported_modules(tree: ast.Module) -> set[str]:
    """Return the top-level names of the modules that a file imports.

    Example:
        `import os.path` and `from rich.table import Column, Table` give {"os", "rich"}.
    """
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module.partition(".")[0])
    return modules


def print_table(weights: Sequence[Weight]) -> None:
    """Print a table with a line for each package."""
    columns = ("extra", "MB", "goes alone", "MB alone", "imported by")
    table = Table(Column("package", no_wrap=True), *columns)
    for weight in weights:
        table.add_row(
            weight.package,
            weight.extra,
            f"{weight.megabytes:.1f}",
            f"{weight.alone_packages} packages",
            f"{weight.alone_megabytes:.1f}",
            f"{weight.imported_by} modules",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
