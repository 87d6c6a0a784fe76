"""`cosmos-eval list`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_records


def list_known(
    what: Annotated[
        Literal["models", "tasks", "datasets", "protocols", "suites"],
        typer.Argument(show_default=False),
    ],
    json: options.Json = False,
) -> None:
    """List known models, tasks, data sets, protocols or suites."""
    from cosmos_eval.runner.catalog import LISTS

    print_records(LISTS[what](), as_json=json)
