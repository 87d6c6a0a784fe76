"""Caption selection data sets that selection.yaml declares. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import SelectionProtocol

SELECTION: Mapping[str, SelectionProtocol] = read_protocols("selection", SelectionProtocol)
"""Caption selection data sets by name, each in its usual protocol."""

SELECTION_BY_PROTOCOL: Mapping[str, Mapping[str, SelectionProtocol]] = {
    "boxes-pooled": {
        name: replace(protocol, protocol_name="boxes-pooled", regions="pooled", squares=None)
        for name, protocol in SELECTION.items()
        if protocol.layout in ("fg-ovd", "refcoco")
    }
}
"""Further protocols by their names, for sets whose items are about boxes: features are pooled."""
