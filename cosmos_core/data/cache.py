"""Keep decoded samples and tokenised captions in memory, for data that are read many times."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from cosmos_core.data import samples
from cosmos_core.data.index import SampleIndex
from cosmos_core.views import SENTENCE_SEPARATOR

_log = logging.getLogger(__name__)

# Pillow keeps an RGB pixel in 4 bytes.
_PIXEL_BYTES = 4
# The number of sentences whose tokens a process keeps: 50 MB for captions of 64 tokens.
_MAX_SENTENCES = 100_000


def decode_samples(
    index: SampleIndex, view_maker: samples.ViewMaker, limit_gb: float
) -> dict[int, samples.Sample]:
    """Decode the first samples of local tars, as many as fit into the memory.

    Workers that are forked later share this memory.

    Args:
        index: The index of all samples.
        view_maker: Decodes samples with the captions that the training uses.
        limit_gb: The memory for decoded images in gigabytes (10**9 bytes). 0 means no samples.

    Returns:
        The samples by their numbers. Bad samples are left out, so that they are counted when they
        are drawn.
    """
    decoded_samples: dict[int, samples.Sample] = {}
    n_bytes = 0
    for number in range(len(index)) if limit_gb else ():
        try:
            sample = view_maker.decode(index.read(number))
        except samples.BadSampleError:
            continue
        n_bytes += _PIXEL_BYTES * sample.image.width * sample.image.height
        if n_bytes > 1e9 * limit_gb:
            _log.info(f"data.cache_gb={limit_gb:g} holds {number} of {len(index)} samples")
            break
        decoded_samples[number] = sample
    return decoded_samples


class CachedTokenizer:
    """A tokenizer that keeps the tokens of captions of one sentence.

    Captions of several sentences, which are drawn at random, seldom come again.
    """

    def __init__(self, tokenizer: samples.Tokenizer) -> None:
        """Create the tokenizer.

        Args:
            tokenizer: Turns N captions into token ids (N, S), each without regard to the others.
        """
        self._tokenizer = tokenizer
        # The token ids (S,) of sentences.
        self._tokens: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids (N, S) of N captions."""
        new_texts = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        new_tokens: dict[str, Tensor] = {}
        if new_texts:
            new_tokens = dict(zip(new_texts, self._tokenizer(new_texts), strict=True))
        rows = []
        for text in texts:
            rows.append(new_tokens[text] if text in new_tokens else self._tokens[text])
        for text, tokens in new_tokens.items():
            if SENTENCE_SEPARATOR not in text and len(self._tokens) < _MAX_SENTENCES:
                self._tokens[text] = tokens.clone()
        return torch.stack(rows)
