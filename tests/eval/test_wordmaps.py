"""Words that images look at: a hand-made encoder, and torch's own attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cosmos_eval.models import load_encoder
from cosmos_eval.models.maps import WordMap, wordmaps
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import CaptionWord, EncoderInfo

PARITY = Path(__file__).parents[1] / "parity"


class SixPlaces:
    """Two heads over six positions, the second head the first one's mirror image."""

    info = EncoderInfo("six", "six", None, "0" * 64, False, "fp32", "cpu")
    weights = torch.tensor([0.05, 0.1, 0.2, 0.25, 0.3, 0.1])

    def words(self, text: str) -> list[CaptionWord]:
        words, place = [], 1
        for word in text.split():
            words.append(CaptionWord(word, place, place + len(word), True))  # a token a letter
            place += len(word)
        return words

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), 6, dtype=torch.long)

    def image_queries(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        both = torch.stack([self.weights, self.weights.flip(0)])
        return both[None, :, None].expand(len(tokens), -1, len(queries), -1)


def of_text(text: str) -> WordMap:
    (word_map,) = wordmaps(SixPlaces(), torch.zeros(3, 3, 1, 1), [text])  # type: ignore[arg-type]
    return word_map


@pytest.mark.parametrize(
    ("text", "words", "cut", "shares", "end", "padding"),
    [
        ("ab", "ab", "", [0.3], 0.25, 0.4),
        ("a b", "a b", "", [0.1, 0.2], 0.25, 0.4),
        ("ab cd", "ab cd", "", [0.3, 0.55], 0.1, 0.0),  # it just fits
        ("abc de f", "abc de", "de f", [0.55, 0.3], 0.1, 0.0),  # the second word fits in part
        ("abcd e", "abcd", "e", [0.85], 0.1, 0.0),
        ("", "", "", [], 0.1, 0.85),
    ],
)
def test_words_by_hand(
    text: str, words: str, cut: str, shares: list[float], end: float, padding: float
) -> None:
    word_map = of_text(text)
    assert [word.text for word in word_map.words] == words.split()
    assert [word.text for word in word_map.cut] == cut.split()
    assert word_map.shares.shape == (3, 2, len(shares))
    torch.testing.assert_close(word_map.shares[1, 0], torch.tensor(shares))
    torch.testing.assert_close(word_map.start, torch.tensor([[0.05, 0.1]] * 3))
    torch.testing.assert_close(word_map.end[:, 0], torch.full((3,), end))
    torch.testing.assert_close(word_map.padding[:, 0], torch.full((3,), padding))


@torch.no_grad()
def test_shares_are_those_of_torch() -> None:
    arch = str(PARITY / "model_config.json")
    encoder = load_encoder(parse_model_spec(f"cosmos:{PARITY / 'checkpoint.pt'}", arch=arch))
    texts = ["A Dalmatian, running", "word " * 80]
    images = torch.randn(2, 3, 224, 224, generator=torch.manual_seed(0))
    short, long = wordmaps(encoder, images, texts)  # type: ignore[arg-type]
    model, tokens = encoder.model, encoder.tokenize(texts)
    pooler = model.text_attn_cross_pool
    keys = pooler.ln_k(model.text_token_mapping(model.text_tokens(tokens, keep=2).tokens))
    queries = pooler.ln_q(model.encode_image(images)).expand(2, -1, -1)
    _, each = pooler.attn(queries, keys, keys, need_weights=True, average_attn_weights=False)
    weights = each.transpose(1, 2)  # text, image, head, place
    # start, A, dal, matian, comma, running, end, 70 places of padding
    assert [word.text for word in short.words] == ["A", "Dalmatian", ",", "running"]
    a, dal, matian, comma, running = weights[0, ..., 1:6].unbind(-1)
    expected = torch.stack([a, dal + matian, comma, running], -1)
    torch.testing.assert_close(short.shares, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(short.end, weights[0, ..., 6], rtol=0, atol=1e-6)
    torch.testing.assert_close(short.padding, weights[0, ..., 7:].sum(-1), rtol=0, atol=1e-6)
    assert (len(long.words), len(long.cut)) == (75, 5)
    torch.testing.assert_close(long.shares, weights[1, ..., 1:76], rtol=0, atol=1e-6)
    assert not long.padding.any()
    for word_map in (short, long):
        total = word_map.shares.sum(-1) + word_map.start + word_map.end + word_map.padding
        torch.testing.assert_close(total, torch.ones(2, 8))
