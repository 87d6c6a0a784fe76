"""Caption selection data sets, as selection.yaml declares them. Imports no torch."""

from collections.abc import Mapping

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import SelectionProtocol

SELECTION: Mapping[str, SelectionProtocol] = read_protocols("selection", SelectionProtocol)
