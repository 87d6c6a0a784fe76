"""A task of your own: is the picture that looks most like a query of the query's class?"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cosmos_eval.data.folders import content_hash, data_path
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.stats.estimates import Proportion
from cosmos_eval.tasks import Metric, Task
from cosmos_eval.types import Measurement, Protocol, RunOptions, Samples, UsageError


@dataclass(frozen=True, kw_only=True)
class ImageRetrievalProtocol(Protocol):
    """Two folders with a folder per class; the fields are the keys of a YAML file."""

    queries: str
    gallery: str


def read(protocol: ImageRetrievalProtocol, options: RunOptions) -> list[list[ImageFile]]:
    """Return the pictures of queries and gallery. Raises UsageError where they are of no use."""
    folders = [data_path(protocol, options, name) for name in (protocol.queries, protocol.gallery)]
    queries, gallery = ([ImageFile(p) for p in sorted(folder.glob("*/*"))] for folder in folders)
    if not queries:
        raise UsageError(f"{protocol.dataset}: {protocol.queries} has no folders with pictures")
    for name in sorted({query.path.parent.name for query in queries}):
        if not any(image.path.parent.name == name for image in gallery):
            raise UsageError(f"{protocol.dataset}: class '{name}' has queries, but no gallery")
    return [sorted(queries, key=lambda query: query.path.name)[: options.limit], gallery]


def measure(
    encoder: Any, protocol: Any, options: RunOptions, progress: Any, data: list[list[ImageFile]]
) -> Measurement:
    """Find the nearest picture of every query."""
    from cosmos_eval.embedding.embed import embed_images  # which imports torch

    queries, gallery = (embed_images(encoder, images, options, progress) for images in data)
    of_query, of_gallery = (np.array([i.path.parent.name for i in images]) for images in data)
    nearest = of_gallery[(queries.features @ gallery.features.T).argmax(axis=1)]
    names = ["/".join(image.path.parts[-2:]) for some in data for image in some]
    content = content_hash([*queries.image_sha256s, *gallery.image_sha256s])
    samples = {"class": of_query, "nearest": nearest}
    return TASK.measurement(samples, options, sample_list=names, content=content)


def recall_at_1(samples: Samples) -> Proportion:
    """Interval (Wilson) and paired test (McNemar) follow from the kind of estimate."""
    return Proportion(samples["class"] == samples["nearest"])


TASK = Task(
    protocol=ImageRetrievalProtocol,
    metrics=[Metric("image_to_image_R@1", recall_at_1, label="image to image R@1", primary=True)],
    truth=("class",),
    open_data=read,
    checked="folders of classes, and that the classes of all queries are in the gallery",
    measure=measure,
)
