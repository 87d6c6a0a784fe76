"""Draw attention maps of texts over images, by every model on this machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import AttentionExample
from cosmos_eval.report.gallery.source import (
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
    from cosmos_eval.report.attention.compute import Look


class AttentionSource(Source):
    """Attention maps of every measured model for a few images with texts."""

    def __init__(
        self, groups: Sequence[ResultGroup], images_with_texts: Sequence[ImageWithText]
    ) -> None:
        super().__init__()
        self._images_by_set: dict[str, list[ImageWithText]] = {}
        # The looks of a model at the images of a data set, in their order.
        self._looks: dict[tuple[str, str], list[Look]] = {}
        for example in images_with_texts:
            self._add_image(example)
        rows = {}
        for group in groups:
            for result in group.results:
                rows[label_of(result)] = result.row
        for model in sorted(rows):
            for dataset in self._images_by_set:
                self.requests.append(
                    _AttentionRequest(
                        row=rows[model],
                        label=model,
                        kind="attention maps",
                        dataset=dataset,
                        source=self,
                    )
                )

    def _add_image(self, example: ImageWithText) -> None:
        """Add an image unless its data set has enough, or has it under another protocol."""
        images = self._images_by_set.setdefault(example.dataset, [])
        names = [image.name for image in images]
        if len(images) < IMAGES_WITH_TEXTS and example.name not in names:
            images.append(example)

    def look(self, model: str, dataset: str, encoder: Encoder) -> None:
        """Compute the maps of a model on the images of a data set.

        Raises UsageError for a model without patches and an image that cannot be used.
        """
        from cosmos_eval.models.maps import default_map_kind
        from cosmos_eval.report.attention.compute import AttendOptions, looks_at_image

        kind = default_map_kind(encoder)
        looks: list[Look] = []
        for example in self._images_by_set[dataset]:
            image = example.read_image()
            looks += looks_at_image(encoder, image, [example.text], kind, AttendOptions())
        self._looks[model, dataset] = looks

    def candidates(self) -> Iterator[Candidate]:
        """Yield the images for which any model has a map."""
        for dataset, images in self._images_by_set.items():
            models = sorted(model for model, set_name in self._looks if set_name == dataset)
            if not models:
                continue
            for turn, example in enumerate(images):
                looks = {model: self._looks[model, dataset][turn] for model in models}
                yield Candidate(turn, _AttentionDrawing(example, looks).draw)


@dataclass(frozen=True, kw_only=True)
class _AttentionRequest(Request):
    """The attention maps of a model on the images of a data set."""

    source: AttentionSource

    def run(self, encoder: Encoder, progress: OnProgress) -> None:
        self.source.look(self.label, self.dataset, encoder)


class _AttentionDrawing(NamedTuple):
    """An image with a text that can be drawn, and the looks at it by model."""

    example: ImageWithText
    looks: Mapping[str, Look]

    def draw(self, canvas: Canvas) -> AttentionExample:
        """Draw the image and the maps of all models. Raises UsageError for an unusable image."""
        image = self.example.read_image()
        size = canvas.size_of(image.size)
        maps, kinds, words = {}, {}, {}
        for model, look in self.looks.items():
            view = look.views[0]
            maps[model] = canvas.heat_map(view.map, size)
            kinds[model] = look.kind
            if view.caption is not None:
                words[model] = view.caption.words
        return AttentionExample(
            dataset=self.example.dataset,
            name=self.example.name,
            caption=self.example.text,
            image=canvas.large(image),
            maps=maps,
            kinds=kinds,
            words=words,
        )
