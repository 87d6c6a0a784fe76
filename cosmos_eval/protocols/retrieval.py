"""Image-text retrieval data sets that retrieval.yaml declares. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import RetrievalProtocol, Sentences, family_of_sentences

RETRIEVAL: Mapping[str, RetrievalProtocol] = read_protocols("retrieval", RetrievalProtocol)


def _with_sentences(sentences: Sentences) -> dict[str, RetrievalProtocol]:
    """Return the sets of family `long`, with captions that are split into sentences."""
    family = family_of_sentences("long", sentences)
    return {
        name: replace(protocol, family=family, sentences=sentences)
        for name, protocol in RETRIEVAL.items()
        if protocol.family == "long"
    }


RETRIEVAL_FAMILIES: Mapping[str, Mapping[str, RetrievalProtocol]] = {
    family_of_sentences("long", "joined"): _with_sentences("joined"),
    family_of_sentences("long", "each"): _with_sentences("each"),
}
"""Protocols of captions in sentences by family, then by data set."""
