"""Caption selection data sets that selection.yaml declares. Imports no torch."""

from collections.abc import Mapping

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import SelectionProtocol

SELECTION: Mapping[str, SelectionProtocol] = read_protocols("selection", SelectionProtocol)
"""Caption selection data sets by name, each in its usual protocol."""
