"""What defines a number of a set of label maps, as hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cosmos_eval.tasks.prompts import resolve_templates
from cosmos_eval.types import LabelMapProtocol


def fingerprints(
    protocol: LabelMapProtocol, names: Sequence[str], constants: Mapping[str, Any]
) -> dict[str, str]:
    """SHA-256 of classes, prompts, the constants that change the number, and names of images."""
    described = {
        "class_names": protocol.class_names,
        "queries": protocol.queries,
        "templates": resolve_templates(protocol.templates),
        "constants": constants,
        "samples": list(names),
    }
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in described.items()
    }
