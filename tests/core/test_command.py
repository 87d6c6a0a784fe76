"""The end of commands that are interrupted."""

import os
import sys

import pytest
import typer

from cosmos_core.utils import command


@pytest.mark.parametrize(
    ("interrupted", "status", "line"),
    [
        (True, 130, "program: interrupted; files written so far are complete\n"),
        (False, 2, "program: cannot read\n"),
    ],
)
def test_an_interrupt_stays_one_if_the_clean_up_fails(
    monkeypatch, capsys, interrupted, status, line
):
    app = typer.Typer()

    @app.command()
    def read() -> None:
        try:
            try:
                if interrupted:
                    raise KeyboardInterrupt
            finally:
                os.close(-1)  # bad file descriptor
        except OSError as error:
            raise ValueError("cannot read") from error

    monkeypatch.setattr(command, "end_process", sys.exit)
    with pytest.raises(SystemExit) as ended:
        command.run_command("program", app, [], lambda error: command.Ending(str(error), 2))
    assert ended.value.code == status
    assert capsys.readouterr().err == line
