"""Prune the vocabulary, the layers and the feed-forward networks of code language models, into stock checkpoints."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .utils.version import __version__


# Imported on first use: every start of `optimum-cli` imports this package, and torch takes seconds.
_LAZY = {
    "BenchSettings": ".settings.efficiency",
    "ConfigurationError": ".utils.errors",
    "EvaluationSettings": ".settings.evaluation",
    "ExportSettings": ".settings.export",
    "FlabError": ".utils.errors",
    "FlabOptimizer": ".optimizer",
    "FlabPrunerConfig": ".settings.configuration",
    "PruningPlan": ".records.plan",
    "RecoveryConfig": ".settings.recovery",
    "TokenCounts": ".records.counts",
    "TrimSettings": ".settings.trim",
    "count_sources": ".counting",
    "count_texts": ".counting",
    "evaluate": ".evaluation.harness",
    "measure_efficiency": ".evaluation.efficiency",
}

__all__ = ["__version__", *_LAZY]

if TYPE_CHECKING:
    from .counting import count_sources as count_sources
    from .counting import count_texts as count_texts
    from .evaluation.efficiency import measure_efficiency as measure_efficiency
    from .evaluation.harness import evaluate as evaluate
    from .optimizer import FlabOptimizer as FlabOptimizer
    from .records.counts import TokenCounts as TokenCounts
    from .records.plan import PruningPlan as PruningPlan
    from .settings.configuration import FlabPrunerConfig as FlabPrunerConfig
    from .settings.efficiency import BenchSettings as BenchSettings
    from .settings.evaluation import EvaluationSettings as EvaluationSettings
    from .settings.export import ExportSettings as ExportSettings
    from .settings.recovery import RecoveryConfig as RecoveryConfig
    from .settings.trim import TrimSettings as TrimSettings
    from .utils.errors import ConfigurationError as ConfigurationError
    from .utils.errors import FlabError as FlabError


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
