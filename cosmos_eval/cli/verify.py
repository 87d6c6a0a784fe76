"""`cosmos-eval verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import JsonOption


def verify(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RESULT]...",
            help=f"Result files, or folders of them. Default: {display.RESULTS}.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compute every figure of results anew from their stored samples, and compare exactly.

    Exit status: 0 all are verified, 1 something differs, 2 something cannot be looked at.
    """
    from cosmos_eval.results.verify import verify_all

    verdicts = list(verify_all(results or [display.RESULTS]))
    display.show_verdicts(verdicts, as_json=json)
    outcomes = {verdict.outcome for verdict in verdicts}
    if outcomes != {"verified"}:
        raise typer.Exit(1 if "differs" in outcomes else 2)
