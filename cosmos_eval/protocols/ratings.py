"""Sets of captions that people rated, which ratings.yaml declares. Imports no torch."""

from collections.abc import Mapping

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import RatingsProtocol

RATINGS: Mapping[str, RatingsProtocol] = read_protocols("ratings", RatingsProtocol)
"""Sets of rated captions by name, each in its usual protocol."""
