"""A model of your own: what `--model python:examples/own_model.py` measures.

`load` returns an object with the members of `cosmos_eval.models.encoder.Encoder`; the last three
make it a `DenseEncoder`, which segmentation needs. This one has no network: it compares the colours
of a picture with the colours that a text names, which shows how far colour alone gets. Around a
network the members are the same: `transform` and `tokenize` prepare, the `encode_` functions run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cosmos_eval.types import Attention, EncoderInfo, Precision

# The "weights": colours in RGB, and what other words say about colour.
COLOURS = {
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (130, 130, 130),
    "red": (210, 50, 45),
    "orange": (235, 140, 40),
    "yellow": (235, 215, 70),
    "green": (70, 150, 60),
    "blue": (70, 130, 210),
    "purple": (130, 70, 160),
    "pink": (235, 150, 180),
    "brown": (120, 80, 50),
}
MEANT = {"sky": "blue", "water": "blue", "grass": "green", "snow": "white", "sand": "yellow"}
MEANT |= {"brick": "brown", "wood": "brown", "stone": "grey"}

WORDS = {word: number for number, word in enumerate([*COLOURS, *MEANT], start=1)}
CONTEXT = 16
SIDE = 128


def load(device: str, precision: Precision) -> Colours:
    """What `cosmos-eval` calls: a model on this device that computes in this precision."""
    return Colours(device, precision)


class Colours:
    """Features are shares of colours, (B, 11): of the pixels of a picture, of the words of a text.

    Shapes: B inputs, K colours, L tokens.
    """

    def __init__(self, device: str, precision: Precision) -> None:
        # All that tells this model from another one. What is kept of its embeddings is found by
        # the hash of the weights and by that of this file.
        self.info = EncoderInfo(
            spec="colours",  # replaced by what was typed
            architecture="shares of 11 colours",
            weights=None,
            weights_sha256=hashlib.sha256(json.dumps([COLOURS, MEANT]).encode()).hexdigest(),
            random=False,
            precision=precision,
            device=device,
        )
        self.preprocessing = {"side": SIDE, "resample": "bilinear"}
        self.tokenizer = {"words": WORDS, "context": CONTEXT}
        self._palette = torch.tensor([*COLOURS.values()], device=device) / 255  # (K, 3)
        names = [*COLOURS]
        colour_of_word = [names.index(MEANT.get(word, word)) for word in WORDS]
        self._colour_of_token = F.one_hot(torch.tensor(colour_of_word, device=device)).float()

    def transform(self, image: Image.Image) -> Tensor:
        """An RGB image -> (3, SIDE, SIDE) float32 on the CPU, in threads ahead of the model."""
        resized = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
        pixels = torch.from_numpy(resized).permute(2, 0, 1) / 255
        return (pixels - _column(self.image_mean)) / _column(self.image_std)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, CONTEXT) int64, padded with 0; words that it does not know are left out."""
        tokens = torch.zeros(len(texts), CONTEXT, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            known = _known_words(text)[:CONTEXT]
            row[: len(known)] = torch.tensor(known)
        return tokens

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """(B,) bool: which texts `tokenize` cuts; results say how many were."""
        return torch.tensor([len(_known_words(text)) > CONTEXT for text in texts])

    @property
    def trims_text(self) -> bool:
        """Padding changes nothing here, so texts may be given without it."""
        return True

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K) float32 on the CPU, L2-normalised."""
        return F.normalize(self._nearest(images).mean(dim=(2, 3)), dim=1).cpu()

    @torch.inference_mode()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, K) float32 on the CPU, L2-normalised; no colour named: all of them."""
        tokens = tokens.to(self.info.device)
        named = self._colour_of_token[tokens - 1] * (tokens > 0)[..., None]
        shares = named.sum(dim=1)
        shares[shares.sum(dim=1) == 0] = 1
        return F.normalize(shares, dim=1).cpu()

    # What a DenseEncoder has besides. Mean and std are CLIP's, which most protocols of segmentation
    # fix; the others take the model's own.
    patch_size = 8
    image_mean = (0.48145466, 0.4578275, 0.40821073)
    image_std = (0.26862954, 0.26130258, 0.27577711)

    @torch.inference_mode()
    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """(B, 3, H, W) -> (B, H // 8, W // 8, K), L2-normalised, same device; no attention here."""
        shares = F.avg_pool2d(self._nearest(images), self.patch_size)
        return F.normalize(shares, dim=1).permute(0, 2, 3, 1)

    def _nearest(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, K, H, W): 1 at every pixel's nearest colour, else 0."""
        images = images.to(self.info.device)
        mean, std = (_column(values).to(images) for values in (self.image_mean, self.image_std))
        pixels = (images * std + mean).permute(0, 2, 3, 1)
        nearest = torch.cdist(pixels.flatten(1, 2), self._palette.expand(len(images), -1, -1))
        hot = F.one_hot(nearest.argmin(dim=2), len(COLOURS)).float()
        return hot.unflatten(1, pixels.shape[1:3]).permute(0, 3, 1, 2)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def _known_words(text: str) -> list[int]:
    words = text.lower().replace(".", " ").replace(",", " ").split()
    return [WORDS[word] for word in words if word in WORDS]
