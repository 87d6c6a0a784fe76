"""`python benchmarks/_cifar_networks.py DATA OUTPUT.npz`: small networks that classify CIFAR-10.

They stand in for pretrained models in `benchmarks/audit.py`, which are not available offline.
Each is trained for three epochs on the 50,000 training images, and answers the 10,000 test images,
whose labels it never sees. Widths and seeds differ. A network takes about five minutes on one core.
"""

from __future__ import annotations

import argparse
import io
from itertools import pairwise
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (24, 20, 28)
EPOCHS, BATCH_SIZE, PEAK_LEARNING_RATE = 3, 256, 0.01


def read_images(archive: Path, split: str) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the images (N, 3, 32, 32) of a zip file by name, and their class numbers (N,)."""
    images = []
    with ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        for name in names:
            image = Image.open(io.BytesIO(file.read(name)))
            images.append(np.asarray(image.convert("RGB")))
    class_names = [name.removeprefix(f"{split}/").split("/")[0] for name in names]
    _, labels = np.unique(class_names, return_inverse=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return (pixels / 255 - 0.47) / 0.25, labels.astype(np.int64)


def make_network(width: int) -> nn.Sequential:
    """Return a network of four convolutions, each with batch normalisation and pooling."""
    channels = [3, width, 3 * width, 5 * width, 8 * width]
    layers: list[nn.Module] = []
    for n_inputs, n_outputs in pairwise(channels):
        layers += [
            nn.Conv2d(n_inputs, n_outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels[-1], 10))


def train(width: int, seed: int, images: Tensor, labels: Tensor) -> nn.Sequential:
    """Train a network on mirrored and shifted images, with one cycle of the learning rate."""
    torch.manual_seed(seed)
    network = make_network(width)
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LEARNING_RATE, weight_decay=0.05)
    n_steps = EPOCHS * (len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=n_steps
    )
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for batch in order.split(BATCH_SIZE)[: len(images) // BATCH_SIZE]:
            pixels = images[batch]
            if torch.rand(()) < 0.5:
                pixels = pixels.flip(-1)
            row, column = torch.randint(0, 5, (2,)).tolist()
            pixels = functional.pad(pixels, (2, 2, 2, 2))[..., row : row + 32, column : column + 32]
            loss = functional.cross_entropy(network(pixels), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main() -> None:
    """Train the networks, and store their answers to the test images, in the order of names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with train.zip and test.zip")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train_images, train_labels = read_images(arguments.data / "train.zip", "train")
    test_images, test_labels = read_images(arguments.data / "test.zip", "test")
    answers = []
    for seed, width in enumerate(WIDTHS):
        network = train(width, seed, train_images, torch.from_numpy(train_labels))
        with torch.no_grad():
            scores = torch.cat([network(images) for images in test_images.split(500)])
        answers.append(scores.argmax(dim=1).numpy().astype(np.uint8))
        print(f"width {width}: accuracy {np.mean(answers[-1] == test_labels):.3f}", flush=True)
        np.savez_compressed(arguments.output, top1=np.stack(answers))


if __name__ == "__main__":
    main()
