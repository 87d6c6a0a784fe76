"""One thread a test and a child process of it: more gain nothing on small tensors, and lose much
on a busy machine. Tables as wide as in a file, whatever terminal the tests are started from. And a
cache folder that only this session has."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported, here and in children
# What a user may have set, and what would change what is printed, fetched or found.
for name in (
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME", "HF_HUB_CACHE"),
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TZ", "LC_ALL", "LANGUAGE", "LANG"),
):
    os.environ.pop(name, None)

_CACHE = "COSMOS_EVAL_CACHE"
# .ci/full sets it, after it has installed all programs: there a skipped test would prove nothing.
_REQUIRE_PROGRAMS = "COSMOS_EVAL_REQUIRE_PROGRAMS"

# The files whose slow tests take longest, in this order.
_LONGEST_FILES = (
    "core/test_resume.py",
    "core/engine/test_distributed.py",
    "test_sbatch.py",
    "core/test_resume_processes.py",
    "eval/executors/test_ray.py",
    "core/engine/test_agreement.py",
    "eval/run/test_killed.py",
    "eval/cli/test_fuzz.py",
    "eval/encoders/test_dense_commands.py",
    "eval/cli/test_processes.py",
    "eval/executors/test_slurm.py",
    "eval/test_python_api.py",
    "core/engine/test_loggers.py",
    "eval/executors/test_ray_head.py",
    "test_notebook.py",
    "eval/cli/test_end_to_end.py",
    "core/engine/test_build.py",
    "core/engine/test_sharding.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """What a former session kept must not be taken for what this one computes."""
    # A shell lets what it starts in the background ignore Ctrl-C, and all that this starts as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Else triton lists what it takes for leaks, after the line that counts the tests.
    config.add_cleanup(gc.unfreeze)
    if "PYTEST_XDIST_WORKER" in os.environ:  # it has the folder of the process that started it
        return
    folder = tempfile.TemporaryDirectory(prefix="cosmos-eval-tests-")
    os.environ[_CACHE] = folder.name
    os.environ["XDG_CACHE_HOME"] = folder.name  # of other libraries
    config.add_cleanup(folder.cleanup)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files: at the end, the other processes would wait for them."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(_LONGEST_FILES)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose program is not installed, or fail where all programs are required."""
    for marker in item.iter_markers("program"):
        if any(map(shutil.which, marker.args)):
            continue
        reason = f"needs {marker.args[0]}: {marker.kwargs['install']}"
        if os.environ.get(_REQUIRE_PROGRAMS):
            pytest.fail(reason)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line why tests were skipped."""
    reports = terminalreporter.stats.get("skipped", [])
    count_by_reason = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    reasons = [f"{count} ({reason})" for reason, count in count_by_reason.most_common()]
    if reasons:
        terminalreporter.write_line(f"skipped: {', '.join(reasons)}")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the million objects of libraries and tests, which all stay, out of every search for
    garbage; and keep what is compiled, which is a third of the work, whatever the environment says
    of that."""
    gc.disable()
    dont_write_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = dont_write_bytecode
        gc.freeze()
        gc.enable()
