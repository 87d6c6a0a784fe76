"""Image-text retrieval data sets that retrieval.yaml declares. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.declared import read_protocols
from cosmos_eval.types import RetrievalProtocol, Sentences, protocol_name_with_sentences

RETRIEVAL: Mapping[str, RetrievalProtocol] = read_protocols("retrieval", RetrievalProtocol)
"""Retrieval data sets by name, each in its usual protocol."""


def _long_captions_in_sentences(sentences: Sentences) -> dict[str, RetrievalProtocol]:
    """Return the data sets with long captions, with captions that are split into sentences.

    Args:
        sentences: `each`: every sentence is a caption. `joined`: the sentences are joined again.

    Returns:
        The protocols by the names of data sets. They are called `long-sentences` or `long-joined`.
    """
    protocol_name = protocol_name_with_sentences("long", sentences)
    protocols = {}
    for name, protocol in RETRIEVAL.items():
        if protocol.protocol_name == "long":
            protocols[name] = replace(protocol, protocol_name=protocol_name, sentences=sentences)
    return protocols


RETRIEVAL_BY_PROTOCOL: Mapping[str, Mapping[str, RetrievalProtocol]] = {
    protocol_name_with_sentences("long", "joined"): _long_captions_in_sentences("joined"),
    protocol_name_with_sentences("long", "each"): _long_captions_in_sentences("each"),
}
"""Protocols of captions in sentences by the name of the protocol, then by the data set."""
