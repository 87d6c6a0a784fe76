"""Image-text retrieval data sets, as retrieval.yaml declares them. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import RetrievalProtocol, family_of_sentences

RETRIEVAL: Mapping[str, RetrievalProtocol] = read_protocols("retrieval", RetrievalProtocol)

RETRIEVAL_FAMILIES: Mapping[str, Mapping[str, RetrievalProtocol]] = {
    family_of_sentences("long", sentences): {
        name: replace(long, family=family_of_sentences("long", sentences), sentences=sentences)
        for name, long in RETRIEVAL.items()
        if long.family == "long"
    }
    for sentences in ("joined", "each")
}
"""Protocols of captions in sentences by family, then by data set."""
