"""Image-text retrieval data sets that retrieval.yaml declares. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import RetrievalProtocol, Sentences, protocol_name_with_sentences

RETRIEVAL: Mapping[str, RetrievalProtocol] = read_protocols("retrieval", RetrievalProtocol)


def _with_sentences(sentences: Sentences) -> dict[str, RetrievalProtocol]:
    """Return the sets of the protocol `long`, with captions that are split into sentences."""
    protocol_name = protocol_name_with_sentences("long", sentences)
    return {
        name: replace(protocol, protocol_name=protocol_name, sentences=sentences)
        for name, protocol in RETRIEVAL.items()
        if protocol.protocol_name == "long"
    }


RETRIEVAL_BY_PROTOCOL: Mapping[str, Mapping[str, RetrievalProtocol]] = {
    protocol_name_with_sentences("long", "joined"): _with_sentences("joined"),
    protocol_name_with_sentences("long", "each"): _with_sentences("each"),
}
"""Protocols of captions in sentences by protocol_name, then by data set."""
