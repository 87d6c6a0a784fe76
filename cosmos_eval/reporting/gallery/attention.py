"""Draw attention maps of texts over images, by every model on this machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.reporting.gallery.pictures import Candidate, Canvas
from cosmos_eval.reporting.gallery.records import AttentionExample
from cosmos_eval.reporting.gallery.source import (
    IMAGES_WITH_TEXTS,
    ImageWithText,
    Request,
    ResultGroup,
    Source,
    label_of,
)
from cosmos_eval.types import OnProgress

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.reporting.attention.compute import Look


class AttentionSource(Source):
    """Attention maps of every measured model for a few images with texts."""

    def __init__(
        self, groups: Sequence[ResultGroup], images_with_texts: Sequence[ImageWithText]
    ) -> None:
        """Choose a few images of each data set, and request the maps of each measured model.

        Args:
            groups: The results of all models, by data set and protocol.
            images_with_texts: Images of several data sets, each with a text about it. An image that
                a data set has under two protocols is chosen once.
        """
        super().__init__()
        # The attention maps of a model for the images of a data set, by model and data set.
        self._looks: dict[tuple[str, str], list[Look]] = {}
        # The chosen images of each data set.
        self._images_by_dataset: dict[str, list[ImageWithText]] = {}
        for image_with_text in images_with_texts:
            images = self._images_by_dataset.setdefault(image_with_text.dataset, [])
            names = [image.name for image in images]
            if len(images) < IMAGES_WITH_TEXTS and image_with_text.name not in names:
                images.append(image_with_text)

        # Request the maps of each model on each data set. Any result of a model will do, because
        # attention maps depend on the model only.
        row_by_model = {}
        for group in groups:
            for result in group.results:
                row_by_model[label_of(result)] = result.row
        for model, row in sorted(row_by_model.items(), key=itemgetter(0)):
            for dataset in self._images_by_dataset:
                self.requests.append(
                    _AttentionRequest(
                        row=row,
                        label=model,
                        kind="attention maps",
                        dataset=dataset,
                        source=self,
                    )
                )

    def compute_maps(self, model: str, dataset: str, encoder: Encoder) -> None:
        """Compute and keep the attention maps of a model for the images of a data set.

        Args:
            model: The label of the model.
            dataset: The name of the data set.
            encoder: The loaded model.

        Raises:
            UsageError: The model has no patches, or an image cannot be used.
        """
        from cosmos_eval.models.maps import default_map_kind
        from cosmos_eval.reporting.attention.compute import AttendOptions, looks_at_image

        kind = default_map_kind(encoder)
        looks: list[Look] = []
        for image_with_text in self._images_by_dataset[dataset]:
            image = image_with_text.read_image()
            looks += looks_at_image(encoder, image, [image_with_text.text], kind, AttendOptions())
        self._looks[model, dataset] = looks

    def candidates(self) -> Iterator[Candidate]:
        """Yield the images for which any model has a map, each with the maps of all models.

        The first image of each data set is in round 0, the second one in round 1.
        """
        for dataset, images in self._images_by_dataset.items():
            models = sorted(model for model, set_name in self._looks if set_name == dataset)
            if not models:
                continue
            for index, image_with_text in enumerate(images):
                look_by_model = {}
                for model in models:
                    look_by_model[model] = self._looks[model, dataset][index]
                drawing = _AttentionDrawing(image_with_text, look_by_model)
                yield Candidate(round=index, draw=drawing.draw)


@dataclass(frozen=True, kw_only=True)
class _AttentionRequest(Request):
    """A request for the attention maps of a model on the images of a data set."""

    source: AttentionSource

    def run(self, encoder: Encoder, progress: OnProgress) -> None:
        """Compute the maps. Raises UsageError for a model without patches or an unusable image."""
        self.source.compute_maps(self.label, self.dataset, encoder)


class _AttentionDrawing(NamedTuple):
    """An image with a text that can be drawn, and the attention of each model on it."""

    image_with_text: ImageWithText
    # For each model, its attention maps of the image.
    look_by_model: Mapping[str, Look]

    def draw(self, canvas: Canvas) -> AttentionExample:
        """Draw the image, and the attention map of each model.

        `canvas` encodes the pictures. Raises UsageError if the image cannot be read.
        """
        image = self.image_with_text.read_image()
        size = canvas.size_of(image.size)
        maps = {}
        kinds = {}
        words = {}
        for model, look in self.look_by_model.items():
            view = look.views[0]  # the map of the mean of all heads
            maps[model] = canvas.heat_map(view.map, size)
            kinds[model] = look.kind
            if view.caption is not None:
                words[model] = view.caption.words
        return AttentionExample(
            dataset=self.image_with_text.dataset,
            name=self.image_with_text.name,
            caption=self.image_with_text.text,
            image=canvas.large(image)._replace(file=self.image_with_text.name),
            maps=maps,
            kinds=kinds,
            words=words,
        )
