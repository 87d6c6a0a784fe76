"""`cosmos-eval list`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import (
    JsonOption,
)


def list_known(
    what: Annotated[
        Literal["models", "tasks", "datasets", "protocols", "suites"],
        typer.Argument(show_default=False),
    ],
    json: JsonOption = False,
) -> None:
    """List the models, tasks, data sets, protocol families or suites that are known."""
    from cosmos_eval.runner import catalog

    listed = {
        "models": catalog.models,
        "tasks": catalog.tasks,
        "datasets": catalog.datasets,
        "protocols": catalog.protocols,
        "suites": catalog.suites,
    }
    display.show_records(listed[what](), as_json=json)
