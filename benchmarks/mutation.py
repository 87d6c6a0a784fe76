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
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MOST_MEMORY = 16 << 30
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
}
# Annotations decide nothing at run time, decorators and docstrings little.
_LEFT_ALONE = {"annotation", "returns", "decorator_list", "type_comment", "bases"}


class Mutation(NamedTuple):
    """A change to a syntax tree: its line, what it changes, and the function that makes it."""

    line: int
    before: str
    apply: Callable[[], None]


def mutations(node: ast.AST) -> Iterator[Mutation]:
    """Yield every change of a tree and of all below it, in the order of the source."""
    for name, apply in _own(node):
        yield Mutation(getattr(node, "lineno", 0), f"{name}: {ast.unparse(node)[:70]}", apply)
    for field, value in ast.iter_fields(node):
        if field not in _LEFT_ALONE:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _is_for_types(child):
                    yield from mutations(child)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _own(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in OPERATORS:
            yield "operator", lambda: setattr(node, "op", OPERATORS[type(op)]())
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                yield "comparison", _setter(ops, index, OPERATORS[type(op)]())
        case ast.UnaryOp(op=op, operand=operand):
            yield "sign", lambda: setattr(node, "operand", ast.UnaryOp(op, operand))
        case ast.Constant(value=bool(value)):
            yield "constant", lambda: setattr(node, "value", not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "constant", lambda: setattr(node, "value", value + 1)
        case ast.Return(value=ast.AST()):
            yield "return", lambda: setattr(node, "value", ast.Constant(None))
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield "condition", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=ifs):
            for index, test in enumerate(ifs):
                yield "condition", _setter(ifs, index, ast.UnaryOp(ast.Not(), test))


def _setter(values: list[Any], index: int, new: ast.AST) -> Callable[[], None]:
    return lambda: values.__setitem__(index, new)


class Replaced(MetaPathFinder, Loader):
    """Import one file of the project from another syntax tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        """Return the module's specification."""
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """Run the tree."""
        exec(compile(ast.fix_missing_locations(self.tree), str(self.path), "exec"), vars(module))


def test(replaced: Replaced | None, tests: Sequence[str], seconds: int) -> int:
    """Fork a process that runs the tests; return its identifier. It exits with 0 if all pass."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if replaced is not None:
        sys.meta_path.insert(0, replaced)
    os._exit(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]) != 0)


def warm_up(tests: Sequence[str]) -> None:
    """Import what the tests import from other packages, so that no process has to."""
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
        pytest.main(["--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        # The environment with other packages may be in a folder of the project.
        if name != "__main__" and str(ROOT) in file and "site-packages" not in file:
            del sys.modules[name]


def survivors(path: Path, lines: range, tests: Sequence[str], jobs: int) -> tuple[int, int]:
    """Print the changes to a file that no test notices; return how many, of how many."""
    name = ".".join(path.resolve().relative_to(ROOT).with_suffix("").parts)
    name = name.removesuffix(".__init__")
    started = time.monotonic()
    if os.waitpid(test(None, tests, 600), 0)[1]:
        raise SystemExit(f"the tests fail without a change: pytest {' '.join(tests)}")
    seconds = 10 + 4 * int(time.monotonic() - started)
    chosen = [n for n, m in enumerate(mutations(_parse(path))) if m.line in lines]
    running: dict[int, str] = {}
    found = 0
    for number in [*chosen, *[None] * jobs]:
        if len(running) == jobs or (number is None and running):
            pid, status = os.wait()
            if status == 0:
                print(running[pid], flush=True)
                found += 1
            del running[pid]
        if number is not None:
            tree = _parse(path)
            mutation = list(mutations(tree))[number]
            mutation.apply()
            pid = test(Replaced(name, path, tree), tests, seconds)
            running[pid] = f"{path}:{mutation.line}: {mutation.before}"
    return found, len(chosen)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def main() -> None:
    """Print the survivors of every file, and how many changes were noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--lines", default="1-100000", help="such as 40-60")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    first, last = map(int, given.lines.split("-"))
    warm_up(given.tests)
    total, lived = 0, 0
    for path in given.files:
        found, count = survivors(path, range(first, last + 1), given.tests, given.jobs)
        print(f"{path}: {count - found} of {count} changes noticed", flush=True)
        total, lived = total + count, lived + found
    print(f"noticed: {total - lived} of {total} ({(total - lived) / max(total, 1):.0%})")


if __name__ == "__main__":
    main()
