"""Measure CLIP-like models: zero-shot retrieval, classification and segmentation.

`import cosmos_eval` is light; torch is imported when something is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosmos_eval._version import __version__

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import DenseEncoder, Encoder, PairScorer
    from cosmos_eval.models.user import TwoTower
    from cosmos_eval.report.attention import attend
    from cosmos_eval.results.export import load_results
    from cosmos_eval.results.samples import load_samples
    from cosmos_eval.results.store import read_results
    from cosmos_eval.runner.embed import embed
    from cosmos_eval.runner.run import evaluate
    from cosmos_eval.types import UsageError

__all__ = [
    "DenseEncoder",
    "Encoder",
    "PairScorer",
    "TwoTower",
    "UsageError",
    "__version__",
    "attend",
    "embed",
    "evaluate",
    "load_results",
    "load_samples",
    "read_results",
]

_HOMES = {
    "DenseEncoder": "cosmos_eval.models.encoder",
    "Encoder": "cosmos_eval.models.encoder",
    "PairScorer": "cosmos_eval.models.encoder",
    "TwoTower": "cosmos_eval.models.user",
    "UsageError": "cosmos_eval.types",
    "attend": "cosmos_eval.report.attention",
    "embed": "cosmos_eval.runner.embed",
    "evaluate": "cosmos_eval.runner.run",
    "load_results": "cosmos_eval.results.export",
    "load_samples": "cosmos_eval.results.samples",
    "read_results": "cosmos_eval.results.store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
