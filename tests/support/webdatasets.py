"""Webdatasets of one-coloured images, in the layout of CLIP Benchmark's and DataComp's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from support.hub import Hub
from support.shards import encoded, tar_of


def shard(*samples: tuple[str, str], text: str = "cls") -> bytes:
    """A tar of images of a colour, each with a text beside it."""
    return shard_of(*((colour, {text: content}) for colour, content in samples))


def shard_of(*samples: tuple[str, Mapping[str, str | bytes]]) -> bytes:
    """A tar of images of a colour, each with what lies beside it by its extension."""
    members = []
    for i, (colour, beside) in enumerate(samples):
        image = Image.new("RGB", (8, 6), colour)
        members.append((f"s{i:07}.webp", encoded(image, "WEBP", lossless=True)))
        for extension, content in beside.items():
            data = content.encode() if isinstance(content, str) else content
            members.append((f"s{i:07}.{extension}", data))
    return tar_of(members)


def npy(values: object, dtype: type = np.int64) -> bytes:
    """The bytes of an array in NumPy's format, as the webdataset package writes it."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype))
    return buffer.getvalue()


def put(hub: Hub, repository: str, classes: str, *shards: bytes) -> None:
    """A repository in the layout of CLIP Benchmark's and DataComp's."""
    hub.files |= {
        f"{repository}/classnames.txt": classes.encode(),
        f"{repository}/zeroshot_classification_templates.txt": b"a {c} photo.\n",
        f"{repository}/test/nshards.txt": f"{len(shards)}\n".encode(),
        f"{repository}/train/nshards.txt": b"1\n",
        f"{repository}/train/0.tar": b"not needed",
        **{f"{repository}/test/{i}.tar": content for i, content in enumerate(shards)},
    }


def padded(names: Sequence[str], classes: int) -> str:
    """A list of so many class names that begins with these."""
    return "\n".join([*names, *(f"other {i}" for i in range(classes - len(names)))]) + "\n"


def refused(ended: Any, *phrases: str) -> None:
    """Check that a command ended with status 2 and one line of error, which has some phrases."""
    assert ended.status == 2, ended
    bars = "Fetching ", "Downloading ", "Download complete"  # of the hub's client
    lines = [line for line in ended.err.splitlines() if line and not line.startswith(bars)]
    (line,) = lines
    assert all(phrase in line for phrase in phrases), line
