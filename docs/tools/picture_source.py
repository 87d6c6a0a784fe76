"""Name in a picture the results that it shows, so that a test finds pictures of former results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).parents[2]
KEY = "Results SHA-256"


def results_sha256() -> str:
    """Return the SHA-256 of the hashes that the records in `results/` hold of themselves."""
    records = [json.loads(path.read_bytes()) for path in sorted(ROOT.glob("results/**/*.json"))]
    hashes = [record["provenance"]["record_sha256"] for record in records]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def source_note() -> PngInfo:
    """Return the text that `Image.save(..., pnginfo=...)` writes into a picture of the results."""
    note = PngInfo()
    note.add_text(KEY, results_sha256())
    return note
