"""The Python file of a user's model, as text that tests change."""

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
