"""Data sets of queries with ranked positives that ranking.yaml declares. Imports no torch."""

from collections.abc import Mapping

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import RankingProtocol

RANKING: Mapping[str, RankingProtocol] = read_protocols("ranking", RankingProtocol)
"""Data sets of queries with ranked positives by name, each in its usual protocol."""
