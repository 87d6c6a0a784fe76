"""`python benchmarks/fuzz.py [--json] [--quick] [--cases N] [--seed S] [--only KIND]`: bad inputs.

Result records and samples of all tasks, users' YAML and lists, tar archives, images, checkpoints
and baselines are damaged by chance, a hub refuses files, falls silent or has another commit, and a
command is run on each. It must give a right number, or
end with one line and status 2, having written nothing and with nothing left running;
tests/support/fuzzing.py says how that is decided. A case that fails is printed with the options
that repeat it alone. Status 1 where any fails.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from random import Random

from _report import Measurement, measurement, parser, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fuzzed_inputs import KINDS
from support.fuzzing import Fuzzer


def main() -> None:
    """Run cases of all kinds in turn and print how many failed."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--cases", type=int, default=3000, help="of all kinds together")
    arguments.add_argument("--seed", type=int, default=0, help="another one gives other cases")
    arguments.add_argument("--only", choices=list(KINDS), help="cases of this kind")
    arguments.add_argument("--first", type=int, default=0, help="number of the first case")
    given = arguments.parse_args()
    seconds = 35.0 if given.quick else float("inf")
    kinds = [given.only] if given.only else list(KINDS)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        fuzzers = {name: Fuzzer(KINDS[name], Path(folder) / name) for name in kinds}
        failed, done = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
        start = time.monotonic()
        for number in range(given.first, given.first + -(-given.cases // len(kinds))):
            if time.monotonic() - start > seconds:
                break
            for name in kinds:
                done[name] += 1
                failed[name] += not _passes(fuzzers[name], name, given.seed, number)
        lines = [_line(name, failed[name], done[name]) for name in kinds]
    lines.append(measurement("cases", sum(done.values()), ""))
    report("Bad inputs", lines, given.json)
    sys.exit(any(failed.values()))


def _passes(fuzzer: Fuzzer, name: str, seed: int, number: int) -> bool:
    try:
        fuzzer.case(Random(f"{seed} {name} {number}"))
    except AssertionError as error:
        repeat = f"--seed {seed} --only '{name}' --first {number} --cases 1"
        print(f"{error}\n  again: {repeat}", file=sys.stderr, flush=True)
        return False
    return True


def _line(name: str, failed: int, done: int) -> Measurement:
    return measurement(f"{name}: failed of {done}", failed, "", at_most=0)


if __name__ == "__main__":
    main()
