"""`python benchmarks/fuzz.py [--json] [--quick] [--cases N] [--seed S] [--only KIND]`: bad inputs.

Result records and samples of all tasks, users' YAML and lists, tar archives, images, checkpoints
and baselines are damaged at random. A hub refuses files, stops answering or has another commit. A
command is run on each of these inputs. It must give a right number, or end with one line and status
2, having written nothing and with nothing left running; tests/support/fuzzing.py says how that is
decided. A case that fails is printed with the options that repeat only this case. The status is 1
if any case fails.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from _report import measurement, parser, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fuzzed_inputs import KINDS
from support.fuzzing import Fuzzer

QUICK_SECONDS = 35.0


class CaseCounts(NamedTuple):
    """The numbers of cases by their kind."""

    # All cases that were run.
    run: Counter[str]
    # The failed ones among them.
    failed: Counter[str]


def main() -> None:
    """Run cases of all kinds in turn and print how many failed."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--cases", type=int, default=3000, help="of all kinds together")
    argument_parser.add_argument(
        "--seed", type=int, default=0, help="another one gives other cases"
    )
    argument_parser.add_argument("--only", choices=list(KINDS), help="cases of this kind")
    argument_parser.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments = argument_parser.parse_args()

    kinds = [arguments.only] if arguments.only else list(KINDS)
    n_each = math.ceil(arguments.cases / len(kinds))
    numbers = range(arguments.first, arguments.first + n_each)
    max_seconds = QUICK_SECONDS if arguments.quick else math.inf
    counts = run_cases(kinds, numbers, arguments.seed, max_seconds)

    lines = []
    for kind in kinds:
        name = f"{kind}: failed of {counts.run[kind]}"
        lines.append(measurement(name, counts.failed[kind], "", at_most=0))
    lines.append(measurement("cases", counts.run.total(), ""))
    report("Bad inputs", lines, arguments.json)
    sys.exit(counts.failed.total() > 0)


def run_cases(
    kinds: Sequence[str], numbers: Sequence[int], seed: int, max_seconds: float
) -> CaseCounts:
    """Run a case of every kind for each number, and start none after `max_seconds`."""
    counts = CaseCounts(Counter(), Counter())
    with tempfile.TemporaryDirectory() as folder:
        fuzzers = {kind: Fuzzer(KINDS[kind], Path(folder) / kind) for kind in kinds}
        start = time.monotonic()
        for number in numbers:
            if time.monotonic() - start > max_seconds:
                break
            for kind in kinds:
                counts.run[kind] += 1
                if not passes(fuzzers[kind], kind, seed, number):
                    counts.failed[kind] += 1
    return counts


def passes(fuzzer: Fuzzer, kind: str, seed: int, number: int) -> bool:
    """Return whether a case passes; if not, print the error and the options that repeat it."""
    try:
        fuzzer.case(Random(f"{seed} {kind} {number}"))
    except AssertionError as error:
        repeat = f"--seed {seed} --only '{kind}' --first {number} --cases 1"
        print(f"{error}\n  again: {repeat}", file=sys.stderr, flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
