"""Models of users: a Python file as text that tests change, and functions of tiny models."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# A model whose identity, but for its code, never changes: SHIFT is all that its versions differ in.
MODEL = """
import torch
from cosmos_eval.types import EncoderInfo

class Mean:
    preprocessing = {}
    tokenizer = {}
    trims_text = False

    def __init__(self, device, precision):
        self.info = EncoderInfo("mine", "means", None, "0" * 64, False, precision, device)

    def transform(self, image):
        red, green, blue = image.resize((1, 1)).getpixel((0, 0))
        return torch.tensor([red, green, blue]).float()[:, None, None] / 255

    def tokenize(self, texts):
        return torch.tensor([[len(text), 1 + SHIFT, 1] for text in texts])

    def overlong(self, texts):
        return torch.zeros(len(texts), dtype=torch.bool)

    def encode_image(self, images):
        return torch.nn.functional.normalize(images[:, :, 0, 0] + SHIFT + 0.5, dim=1)

    def encode_text(self, tokens):
        return torch.nn.functional.normalize(tokens.float(), dim=1)

def load(device, precision):
    return Mean(device, precision)
"""


def pixels_of(image: Image.Image) -> Tensor:
    """A transform: 8 x 8 pixels in [0, 1]."""
    return torch.from_numpy(np.asarray(image.resize((8, 8)), np.float32)).permute(2, 0, 1) / 255


def tokens_of(texts: list[str]) -> Tensor:
    """A tokenizer: the first nine characters."""
    return torch.tensor([[*map(ord, text[:9]), *[0] * (9 - len(text))] for text in texts])
