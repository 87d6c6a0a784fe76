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
    """List the known models, tasks, data sets, protocol families or suites."""
    from cosmos_eval.runner import catalog

    listed = {
        "models": catalog.models,
        "tasks": catalog.tasks,
        "datasets": catalog.datasets,
        "protocols": catalog.protocols,
        "suites": catalog.suites,
    }
    print_records(listed[what](), as_json=json)
