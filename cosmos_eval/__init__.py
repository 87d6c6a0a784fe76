"""Measure CLIP-like models: zero-shot retrieval, classification and segmentation.

`import cosmos_eval` is light; torch is imported when something is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosmos_eval._version import __version__

if TYPE_CHECKING:
    from cosmos_eval.report.attention import attend
    from cosmos_eval.results.export import load_results
    from cosmos_eval.results.store import read_results
    from cosmos_eval.runner.run import evaluate

__all__ = ["__version__", "attend", "evaluate", "load_results", "read_results"]

_HOMES = {
    "attend": "cosmos_eval.report.attention",
    "evaluate": "cosmos_eval.runner.run",
    "load_results": "cosmos_eval.results.export",
    "read_results": "cosmos_eval.results.store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
