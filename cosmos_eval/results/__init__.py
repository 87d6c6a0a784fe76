"""Result files: the record, the store, verification, comparison, tables."""

from pathlib import Path

RESULTS = Path("runs/eval")
"""The folder of results if none is given, relative to the current folder.

It is not `results`: in a checkout of this project, that folder holds results under version control,
which a trial run must not replace.
"""
