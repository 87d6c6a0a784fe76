"""Result files: the record, the store, verification, comparison, tables."""

from pathlib import Path

RESULTS = Path("runs/eval")
"""The folder of results, in the current one, unless another is given. Not `results`: in a
checkout of this project that folder holds the results under version control, which a trial run must
not replace."""
