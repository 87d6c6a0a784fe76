"""`python benchmarks/mutation.py FILE... --tests PATH...`: would the tests notice a small change?

Every operator, comparison, condition, number and return value of the files is changed, one at a
time, and the tests are run on it in a forked process until one fails. Survivors are listed: each is
a missing test, or a change that changes nothing. `--lines 40-60` restricts the changes to lines.

    python benchmarks/mutation.py cosmos_eval/stats/intervals.py --tests tests/eval/metrics
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MAX_MEMORY = 16 << 30  # bytes of a process that runs the tests
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
# Annotations decide nothing at run time, decorators and base classes little.
UNCHANGED_FIELDS = {"annotation", "returns", "decorator_list", "type_comment", "bases"}
PYTEST_OPTIONS = ("-q", "-n", "0", "-p", "no:cacheprovider")


class Replacement(NamedTuple):
    """A new value for an attribute of a node, or for an item of a list of nodes."""

    # What is replaced, such as "operator".
    kind: str
    target: ast.AST | list[Any]
    # The name of an attribute if the target is a node, an index if it is a list.
    key: str | int
    value: Any

    def apply(self) -> None:
        """Set the new value."""
        if isinstance(self.target, list):
            self.target[int(self.key)] = self.value
        else:
            setattr(self.target, str(self.key), self.value)


class Mutation(NamedTuple):
    """A change to a syntax tree."""

    line: int
    # The kind of change and the source before it, such as "operator: a + b".
    description: str
    replacement: Replacement


class SurvivorCount(NamedTuple):
    """How many changes to a file were made, and how many of them no test noticed."""

    survived: int
    changes: int


def mutations(node: ast.AST) -> Iterator[Mutation]:
    """Yield every change of a node and of all nodes below it, in the order of the source."""
    for replacement in replacements(node):
        description = f"{replacement.kind}: {ast.unparse(node)[:70]}"
        yield Mutation(getattr(node, "lineno", 0), description, replacement)
    for field, value in ast.iter_fields(node):
        if field in UNCHANGED_FIELDS:
            continue
        children = value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, ast.AST) and not is_for_type_checkers(child):
                yield from mutations(child)


def is_for_type_checkers(node: ast.AST) -> bool:
    """Return whether a node is `if TYPE_CHECKING: ...`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def replacements(node: ast.AST) -> Iterator[Replacement]:
    """Yield every change of a node itself, without the nodes below it."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in OPERATORS:
            yield Replacement("operator", node, "op", OPERATORS[type(op)]())
        case ast.Compare(ops=operators):
            for index, operator in enumerate(operators):
                yield Replacement("comparison", operators, index, OPERATORS[type(operator)]())
        case ast.UnaryOp(op=op, operand=operand):
            yield Replacement("sign", node, "operand", ast.UnaryOp(op, operand))
        case ast.Constant(value=bool(value)):
            yield Replacement("constant", node, "value", not value)
        case ast.Constant(value=int(value) | float(value)):
            yield Replacement("constant", node, "value", value + 1)
        case ast.Return(value=ast.AST()):
            yield Replacement("return", node, "value", ast.Constant(None))
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield Replacement("condition", node, "test", ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=conditions):
            for index, test in enumerate(conditions):
                yield Replacement("condition", conditions, index, ast.UnaryOp(ast.Not(), test))


class ChangedModule(MetaPathFinder, Loader):
    """Imports one file of the project from a changed syntax tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        """Import the module `name`, whose file is `path`, from `tree`."""
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        """Return the module's specification, and None for any other module."""
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """Run the tree."""
        exec(compile(ast.fix_missing_locations(self.tree), str(self.path), "exec"), vars(module))


def start_tests(changed_module: ChangedModule | None, tests: Sequence[str], seconds: int) -> int:
    """Fork a process that runs the tests, and return its identifier.

    The process exits with 0 if all tests pass. It is killed after `seconds`.
    """
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    if changed_module is not None:
        sys.meta_path.insert(0, changed_module)
    os._exit(pytest.main(["-x", *PYTEST_OPTIONS, *tests]) != 0)


def warm_up(tests: Sequence[str]) -> None:
    """Import what the tests import from other packages, so that no forked process has to."""
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
        pytest.main(["--collect-only", *PYTEST_OPTIONS, *tests])
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        # The environment with other packages may be in a folder of the project.
        if name != "__main__" and str(ROOT) in file and "site-packages" not in file:
            del sys.modules[name]


def print_survivors(path: Path, lines: range, tests: Sequence[str], jobs: int) -> SurvivorCount:
    """Print the changes to lines of a file that no test notices, and return their number."""
    max_seconds = 10 + 4 * int(seconds_of_tests(tests))
    numbers = []
    for number, mutation in enumerate(mutations(parse(path))):
        if mutation.line in lines:
            numbers.append(number)

    descriptions: dict[int, str] = {}  # of the changes that are tested now, by process
    n_survivors = 0
    for number in numbers:
        if len(descriptions) == jobs:
            n_survivors += wait_for_tests(descriptions)
        tree = parse(path)
        mutation = list(mutations(tree))[number]
        mutation.replacement.apply()
        pid = start_tests(ChangedModule(module_name(path), path, tree), tests, max_seconds)
        descriptions[pid] = f"{path}:{mutation.line}: {mutation.description}"
    while descriptions:
        n_survivors += wait_for_tests(descriptions)
    return SurvivorCount(n_survivors, len(numbers))


def seconds_of_tests(tests: Sequence[str]) -> float:
    """Return how long the tests take without a change.

    Raises:
        SystemExit: If a test fails.
    """
    start = time.monotonic()
    _, status = os.waitpid(start_tests(None, tests, 600), 0)
    if status != 0:
        raise SystemExit(f"the tests fail without a change: pytest {' '.join(tests)}")
    return time.monotonic() - start


def wait_for_tests(descriptions: dict[int, str]) -> bool:
    """Wait until a process ends and remove it; print its change and return True if it survived."""
    pid, status = os.wait()
    description = descriptions.pop(pid)
    if status == 0:
        print(description, flush=True)
    return status == 0


def module_name(path: Path) -> str:
    """Return the name by which a file of the project is imported."""
    name = ".".join(path.resolve().relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"))


def main() -> None:
    """Print the survivors of every file, and how many changes were noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--lines", default="1-100000", help="such as 40-60")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    first_line, last_line = map(int, arguments.lines.split("-"))
    lines = range(first_line, last_line + 1)

    warm_up(arguments.tests)
    n_changes, n_noticed = 0, 0
    for path in arguments.files:
        count = print_survivors(path, lines, arguments.tests, arguments.jobs)
        n_noticed_here = count.changes - count.survived
        print(f"{path}: {n_noticed_here} of {count.changes} changes noticed", flush=True)
        n_changes += count.changes
        n_noticed += n_noticed_here
    print(f"noticed: {n_noticed} of {n_changes} ({n_noticed / max(n_changes, 1):.0%})")


if __name__ == "__main__":
    main()
