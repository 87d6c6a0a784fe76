"""Parse JSON that comes from users: options, architectures, metadata of checkpoints, data files."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

# The escapes of a JSON text that may spell half a character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 60  # characters of a name in an error message


def parse_json(content: str | bytes) -> Any:
    """Parse JSON strictly; bytes are UTF-8, UTF-16 or UTF-32. Raises ValueError.

    Python also accepts NaN and infinities, names given twice (the last one counts), and characters
    that no text can hold; all of them are refused here, and so is deep nesting.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    try:
        found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _SURROGATE.search(text):
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(n for n, count in Counter(name for name, _ in pairs).items() if count > 1)
        shown = repr(repeated if len(repeated) <= _SHOWN else f"{repeated[:_SHOWN]}...")
        raise ValueError(f"name {shown} is given twice in one object")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
