"""Measure CLIP-like models: zero-shot retrieval, classification and segmentation.

`import cosmos_eval` is light; torch is imported when something is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosmos_eval._version import __version__

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import ComposingEncoder, DenseEncoder, Encoder, PairScorer
    from cosmos_eval.models.user import TwoTower
    from cosmos_eval.reporting.attention import attend
    from cosmos_eval.reporting.write import report
    from cosmos_eval.results.checked import read_results
    from cosmos_eval.results.export import load_results, load_samples
    from cosmos_eval.runner.embed import embed
    from cosmos_eval.runner.evaluate import evaluate
    from cosmos_eval.runner.evaluation import Evaluation
    from cosmos_eval.tables import check, compare, leaderboard, scaling
    from cosmos_eval.types import UsageError

__all__ = [
    "ComposingEncoder",
    "DenseEncoder",
    "Encoder",
    "Evaluation",
    "PairScorer",
    "TwoTower",
    "UsageError",
]
__all__ += ["__version__"]
__all__ += ["attend", "check", "compare", "embed", "evaluate", "leaderboard", "load_results"]
__all__ += ["load_samples", "read_results", "report", "scaling"]

_MODULES = {
    "models.encoder": ("ComposingEncoder", "DenseEncoder", "Encoder", "PairScorer"),
    "models.user": ("TwoTower",),
    "reporting.attention": ("attend",),
    "reporting.write": ("report",),
    "results.export": ("load_results", "load_samples"),
    "results.checked": ("read_results",),
    "runner.embed": ("embed",),
    "runner.evaluate": ("evaluate",),
    "runner.evaluation": ("Evaluation",),
    "tables": ("check", "compare", "leaderboard", "scaling"),
    "types": ("UsageError",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"cosmos_eval.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
