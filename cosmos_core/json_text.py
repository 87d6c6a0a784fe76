"""Parse JSON that comes from users: options, architectures, metadata of checkpoints."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(text: str) -> Any:
    """Parse JSON text. Raises ValueError for all that is none, NaN and deep nesting included."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    """Python also accepts NaN and the infinities, which are no JSON."""
    raise ValueError(f"{constant} is no number")
