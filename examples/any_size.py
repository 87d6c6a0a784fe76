"""A model that takes images of any size. An image is cut into patches of 8 x 8 pixels. `collate`
pads the images of a batch to the longest of them. A mask keeps the padding out of the features.

    cosmos-eval run --model python:examples/any_size.py --dataset scenes-cls

The weights are random, so its metrics are those of guessing.
"""

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.functional import to_tensor

from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_eval import TwoTower

SIDE, WIDTH, VOCABULARY = 8, 32, 49408


class Towers(nn.Module):
    """Attention over the patches of an image, and the mean of the words of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_patches = nn.Linear(3 * SIDE**2, WIDTH)
        self.embed_places = nn.Linear(2, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.words = nn.EmbeddingBag(VOCABULARY, WIDTH, padding_idx=0)

    def encode_image(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean of the patches of each image, (B, WIDTH)."""
        tokens = self.embed_patches(batch["patches"]) + self.embed_places(batch["places"])
        tokens = self.blocks(tokens, src_key_padding_mask=batch["is_padding"])
        is_patch = ~batch["is_padding"][..., None]
        return (tokens * is_patch).sum(1) / is_patch.sum(1)


def transform(image: Image.Image) -> dict[str, Tensor]:
    """Return the patches (N, 3 * 8 * 8) of an image, and the place (N, 2) of each of them."""
    image = ImageOps.contain(image, (128, 128))  # which keeps the aspect
    rows, columns = max(image.height // SIDE, 1), max(image.width // SIDE, 1)
    pixels = to_tensor(image.resize((columns * SIDE, rows * SIDE)))
    patches = pixels.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)  # (3, rows, columns, 8, 8)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) / SIDE
    return {"patches": patches.permute(1, 2, 0, 3, 4).reshape(len(places), -1), "places": places}


def collate(images: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the patches and places of B images, padded to the longest image, and the mask."""
    lengths = torch.tensor([len(image["patches"]) for image in images])
    return {
        "patches": pad_sequence([image["patches"] for image in images], batch_first=True),
        "places": pad_sequence([image["places"] for image in images], batch_first=True),
        "is_padding": torch.arange(int(lengths.max())) >= lengths[:, None],
    }


with torch.random.fork_rng():
    torch.manual_seed(0)
    towers = Towers()
model = TwoTower(
    encode_image=towers.encode_image,
    encode_text=towers.words,
    transform=transform,
    collate=collate,
    tokenize=scenes_tokenizer(),
    name="any-size",
)
