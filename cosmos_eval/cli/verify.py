"""`cosmos-eval verify`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_json, print_line
from cosmos_eval.results import RESULTS


def verify(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RESULT]...",
            help=f"Result files, or folders of them. Default: {RESULTS}.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Recompute results from their stored samples.

    Every figure must be exactly the stored one. Exit status: 0 all are verified, 1 something
    differs, 2 something cannot be read.
    """
    from cosmos_eval.results.verify import verify_all

    verdicts = list(verify_all(results or [RESULTS]))
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    if json:
        print_json([{**verdict._asdict(), "outcome": verdict.outcome} for verdict in verdicts])
    else:
        for verdict in verdicts:
            if verdict.outcome == "verified":
                print_line(f"{verdict.path}: verified, {verdict.figures} figures")
            for line in verdict.differences or filter(None, [verdict.obstacle]):
                print_line(f"{verdict.path}: {line}")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print_line(f"{len(verdicts)} results: {counts}")
    if set(outcomes) != {"verified"}:
        raise typer.Exit(1 if "differs" in outcomes else 2)
