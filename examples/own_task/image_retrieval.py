"""A task of your own: is the picture that looks most like a query of the query's class?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cosmos_eval.data.folders import content_hash, data_path
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.stats.estimates import Proportion
from cosmos_eval.tasks import Metric, Task
from cosmos_eval.types import Measurement, Protocol, RunOptions, Samples, UsageError


@dataclass(frozen=True, kw_only=True)
class ImageRetrievalProtocol(Protocol):
    """Two folders with a folder per class; the fields are the keys of a YAML file."""

    task: ClassVar[str] = "image-retrieval"
    queries: str
    gallery: str


def recall_at_1(samples: Samples) -> Proportion:
    """Interval (Wilson) and paired test (McNemar) follow from the kind of estimate."""
    return Proportion(samples["class"] == samples["nearest"])


class ImageRetrieval(Task):
    """Retrieval of images by images."""

    protocol = ImageRetrievalProtocol
    metrics = (Metric("image_to_image_R@1", recall_at_1, label="image to image R@1", primary=True),)
    truth = ("class",)
    checked = "folders of classes, and that the classes of all queries are in the gallery"

    def open_data(self, protocol: Any, options: RunOptions) -> list[list[ImageFile]]:
        """List the pictures of queries and gallery. Raises UsageError if a class is missing."""
        folders = [data_path(protocol, options, f) for f in (protocol.queries, protocol.gallery)]
        queries, gallery = ([ImageFile(p) for p in sorted(f.glob("*/*"))] for f in folders)
        missing = {q.path.parent.name for q in queries} - {g.path.parent.name for g in gallery}
        if missing or not queries:
            raise UsageError(f"{protocol.dataset}: no gallery of {sorted(missing) or 'any class'}")
        return [sorted(queries, key=lambda query: query.path.name)[: options.limit], gallery]

    def measure(
        self, encoder: Any, protocols: Any, data: Any, options: RunOptions, progress: Any
    ) -> Iterator[Measurement]:
        """Yield a measurement per protocol: the class of the nearest picture of every query."""
        from cosmos_eval.embedding.embed import embed_images  # which imports torch

        for images in data:
            queries, gallery = (embed_images(encoder, side, options, progress) for side in images)
            classes = [np.array([image.path.parent.name for image in side]) for side in images]
            nearest = classes[1][(queries.features @ gallery.features.T).argmax(axis=1)]
            samples = {"class": classes[0], "nearest": nearest}
            names = ["/".join(image.path.parts[-2:]) for side in images for image in side]
            content = content_hash([*queries.image_sha256s, *gallery.image_sha256s])
            yield self.measurement(samples, options, sample_list=names, content=content)
