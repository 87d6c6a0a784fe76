"""A model without a network: what `--model python:examples/own_model.py` measures.

It compares the colours of a picture with the colours that a text names, which shows how far colour
alone gets. `encode_patches` makes it a dense model, which segmentation needs.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cosmos_eval import TwoTower

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
WORDS = [*COLOURS, *MEANT]
UNKNOWN = len(WORDS) + 1  # the token of every other word; those of WORDS begin with 1, and 0 pads
CONTEXT, SIDE, PATCH = 64, 128, 8
# CLIP's, which most protocols of segmentation fix; the others take the model's own.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

palette = torch.tensor([*COLOURS.values()]) / 255  # (K, 3)
colour_of_word = F.one_hot(torch.tensor([[*COLOURS].index(MEANT.get(w, w)) for w in WORDS])).float()
colour_of_token = F.pad(colour_of_word, (0, 0, 1, 1))  # (UNKNOWN + 1, K); 0 and UNKNOWN have none


def transform(image: Image.Image) -> Tensor:
    """An RGB image -> (3, SIDE, SIDE) float32."""
    resized = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    pixels = (torch.from_numpy(resized) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return pixels.permute(2, 0, 1)


def tokenize(texts: list[str]) -> Tensor:
    """Texts -> (B, CONTEXT) int64: one token for every word."""
    tokens = torch.zeros(len(texts), CONTEXT, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        words = text.lower().replace(".", " ").replace(",", " ").split()
        numbers = [WORDS.index(word) + 1 if word in WORDS else UNKNOWN for word in words[:CONTEXT]]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def encode_image(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, K): the share of every colour."""
    return nearest(images).mean(dim=(2, 3))


def encode_text(tokens: Tensor) -> Tensor:
    """(B, L) -> (B, K): how often every colour is named; all of them where none is."""
    counts = colour_of_token.to(tokens.device)[tokens].sum(dim=1)
    counts[counts.sum(dim=1) == 0] = 1
    return counts


def encode_patches(images: Tensor, attention: str) -> Tensor:
    """(B, 3, H, W) -> (B, H // PATCH, W // PATCH, K); there is no attention to choose."""
    return F.avg_pool2d(nearest(images), PATCH).permute(0, 2, 3, 1)


def nearest(images: Tensor) -> Tensor:
    """(B, 3, H, W), normalised -> (B, K, H, W): 1 at every pixel's nearest colour, else 0."""
    mean, std, colours = (torch.as_tensor(v).to(images) for v in (MEAN, STD, palette))
    pixels = images.permute(0, 2, 3, 1) * std + mean
    distances = torch.cdist(pixels.flatten(1, 2), colours.expand(len(images), -1, -1))
    hot = F.one_hot(distances.argmin(dim=2), len(COLOURS)).float()
    return hot.unflatten(1, pixels.shape[1:3]).permute(0, 3, 1, 2)


model = TwoTower(
    encode_image=encode_image,
    encode_text=encode_text,
    transform=transform,
    tokenize=tokenize,
    name="shares of 11 colours",
    weights={"palette": palette, "colour_of_token": colour_of_token},
    encode_patches=encode_patches,
    patch_size=PATCH,
    image_mean=MEAN,
    image_std=STD,
)
