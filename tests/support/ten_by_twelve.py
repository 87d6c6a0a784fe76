"""Made-up results of ten models on twelve data sets of real sizes, with samples and pictures.

Metrics, and figures of classes, follow from the samples. All intervals are Wilson's, also of
metrics that have another method: the right ones would take minutes, and no test depends on them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.results import metrics_of
from support.rows import make_row, write_result

from cosmos_eval.reporting.attention.compute import WordShare
from cosmos_eval.reporting.gallery.records import (
    AttentionExample,
    Gallery,
    Outcome,
    Picture,
    RetrievalExample,
    SampleExample,
    SegmentationExample,
)
from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.intervals import wilson
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Samples

MODELS = (
    *("cosmos:vitb16_merged30m", "cosmos:vitb16_cc3m", "cosmos:vitb32_merged30m"),
    *("openclip:ViT-B-16/openai", "openclip:ViT-B-16/laion400m_e32", "openclip:ViT-B-32/openai"),
    *("openclip:ViT-B-16-SigLIP/webli", "openclip:EVA02-B-16/merged2b_s8b_b131k"),
    *("cosmos:/data/runs/2026-10/sweep-3/checkpoint.safetensors", "scenes-cosmos"),
)


class SetSize(NamedTuple):
    """A data set's task, and how many images, captions an image, and classes it has."""

    task: str
    images: int
    captions: int = 0
    classes: int = 0


SETS: Mapping[str, SetSize] = {
    "coco-val2017": SetSize("retrieval", 5_000, captions=5),
    "flickr30k-val": SetSize("retrieval", 1_014, captions=5),
    "imagenet1k": SetSize("cls", 50_000, classes=1_000),
    "food101": SetSize("cls", 25_250, classes=101),
    "cifar100": SetSize("cls", 10_000, classes=100),
    "dtd": SetSize("cls", 1_880, classes=47),
    "ade20k": SetSize("seg", 2_000, classes=150),
    "coco_stuff": SetSize("seg", 5_000, classes=171),
    "context59": SetSize("seg", 5_104, classes=59),
    "cityscapes": SetSize("seg", 500, classes=19),
    "voc20": SetSize("seg", 1_449, classes=20),
    "sugarcrepe": SetSize("select", 7_512),
}
PROTOCOL = "cosmos"


def write_results(folder: Path, images: float = 1.0) -> None:
    """Write the results of all models on all sets, with a share of the images."""
    for place, model in enumerate(MODELS):
        for dataset, size in SETS.items():
            rng = np.random.default_rng([place, len(dataset), size.images])
            chosen = size._replace(images=max(30, int(size.images * images)))
            skill = 0.35 + 0.04 * place + rng.uniform(-0.03, 0.03)
            samples = _SAMPLES[size.task](_truth(dataset, chosen), skill, rng)
            write_result(folder, _row(model, dataset, chosen, samples), samples)


class Truth(NamedTuple):
    """The facts of a data set that hold for all models."""

    size: SetSize
    # The classes of the images, (N,).
    labels: NDArray[np.int64]
    # How hard each image is, from 0 to 1, (N,).
    hardness: NDArray[np.float64]


@cache
def _truth(dataset: str, size: SetSize) -> Truth:
    rng = np.random.default_rng([size.images, len(dataset)])
    labels = rng.permutation(np.arange(size.images) % max(size.classes, 1))
    return Truth(size, labels, rng.random(size.images))


def _right(truth: Truth, skill: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    return rng.random(len(truth.hardness)) < np.clip(skill + 0.6 * (0.5 - truth.hardness), 0, 1)


def _retrieval(truth: Truth, skill: float, rng: np.random.Generator) -> Samples:
    chance = np.clip(skill + 0.6 * (0.5 - truth.hardness), 0.05, 1)
    image_of_text = np.repeat(np.arange(truth.size.images), truth.size.captions)
    return {
        "image_to_text_rank": rng.geometric(chance),
        "text_to_image_rank": rng.geometric(0.8 * chance[image_of_text]),
        "image_of_text": image_of_text,
    }


def _classification(truth: Truth, skill: float, rng: np.random.Generator) -> Samples:
    classes = truth.size.classes
    away = np.where(_right(truth, skill, rng), 0, rng.geometric(0.3, truth.size.images))
    top = (truth.labels[:, None] + away[:, None] + np.arange(5)) % classes
    names = [f"class number {number}" for number in range(classes)]
    return {"labels": truth.labels, "top5": top, "classes": np.array(names)}


def _segmentation(truth: Truth, skill: float, rng: np.random.Generator) -> Samples:
    """Ten labels an image, six predictions each: 60 pairs of label and prediction."""
    classes, images = truth.size.classes, truth.size.images
    image = np.repeat(np.arange(images, dtype=np.int32), 60)
    label = (truth.labels[image] + np.tile(np.repeat(np.arange(10), 6), images)) % classes
    away = np.tile(np.arange(6), 10 * images)
    right = np.clip(skill + 0.3 * (0.5 - truth.hardness)[image], 0.05, 0.95)
    right = np.clip(right + 0.3 * np.sin(label * 12.9), 0.05, 0.95)
    pixels = np.where(away == 0, 5_000 * right, 1_000 * (1 - right)).astype(np.int64)
    # Every model is of the same label maps: what is missing is one more prediction.
    pixels[5::6] += 5_000 - pixels.reshape(-1, 6).sum(axis=1)
    pair = label * classes + (label + away * (1 + rng.integers(2, size=len(label)))) % classes
    return {
        "name": np.array([f"{number:06}" for number in range(images)]),
        "classes": np.array([f"class number {number}" for number in range(classes)]),
        "groups": np.array([], dtype=np.str_),
        "members": np.zeros((0, classes), np.bool_),
        "image": image,
        "pair": pair.astype(np.int32),
        "pixels": pixels,
    }


def _selection(truth: Truth, skill: float, rng: np.random.Generator) -> Samples:
    items = np.arange(truth.size.images)
    return {
        "correct": _right(truth, 0.2 + skill, rng),
        "subset": items % 7,
        "subsets": np.array([f"subset {letter}" for letter in "abcdefg"]),
        "averaged": np.ones(7, bool),
        "cluster": items // 3,
    }


_SAMPLES = {
    "retrieval": _retrieval,
    "cls": _classification,
    "seg": _segmentation,
    "select": _selection,
}


def _row(model: str, dataset: str, size: SetSize, samples: Samples) -> ResultRow:
    metrics, task = metrics_of(size.task, samples), task_named(size.task)
    figures: dict[str, Any] = {"per_class": {}}
    for name in ("per_class", "confusion_pairs"):
        compute = getattr(task, name)
        if compute:
            figures[name] = compute(samples)
    intervals = {
        name: wilson(round(value * size.images), size.images)._asdict()
        for name, value in metrics.items()
        if not name.endswith("_rank")
    }
    attention = {"attention": "csa", "protocol_attention": "csa"} if size.task == "seg" else {}
    return make_row(
        {"hashes": {"sample_list": f"{len(dataset)}" * 64}, "commit": "1" * 40, **attention},
        {"spec": model},
        task=size.task,
        dataset=dataset,
        protocol=PROTOCOL,
        metrics=metrics,
        intervals=intervals,
        n_samples=size.images,
        **figures,
    )


_CAPTION = "A made-up caption of a usual length, with two people and a dog near number {}."


def make_gallery(examples: int = 4, size: int = 160) -> Gallery:
    """Pictures for all sets: of each, `examples` a model, or of segmentation altogether."""
    rng = np.random.default_rng(0)
    sets = {task: [n for n, s in SETS.items() if s.task == task] for task in _SAMPLES}
    return Gallery(
        retrieval=[*_retrieval_examples(sets["retrieval"], examples, size, rng)],
        samples=[*_sample_examples(sets["cls"], rng)],
        segmentation=[*_segmentation_examples(sets["seg"], examples, size, rng)],
        attention=[*_attention_examples("flickr30k-val", examples, size, rng)],
        notes=["scenes-cosmos on food101: no pictures, since its images are not on this machine"],
    )


def make_picture(rng: np.random.Generator, size: int = 160, cells: int = 9) -> Picture:
    """A smooth random photograph of usual shape, as WebP."""
    coarse = rng.integers(0, 256, (cells, cells + 3, 3), np.uint8)
    shape = (size, size * 3 // 4)
    image = Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC)
    noisy = np.asarray(image, np.int64) + rng.integers(-12, 13, (shape[1], shape[0], 3))
    return encoded(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), quality=60)


def make_map(rng: np.random.Generator, size: int = 160, colours: int = 5) -> Picture:
    """Return a label map of some blobs, in which class 0 is transparent."""
    palette = np.array([(*LEGEND_RGB[n % len(LEGEND_RGB)], 255) for n in range(colours)], np.uint8)
    palette[0, 3] = 0
    shape = (size, size * 3 // 4)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8), np.uint8))
    levels = np.asarray(coarse.resize(shape, Image.Resampling.BICUBIC)).astype(np.int64)
    return encoded(Image.fromarray(palette[levels * colours // 256]), lossless=True)


def encoded(image: Image.Image, **options: Any) -> Picture:
    """An image as WebP."""
    out = io.BytesIO()
    image.save(out, "WEBP", **options)
    return Picture(out.getvalue(), "image/webp", image.width, image.height)


LEGEND_RGB = ((0, 0, 0), (214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 187, 40))
_LEGEND = {
    f"class number {number}": "#" + "".join(f"{value:02x}" for value in rgb)
    for number, rgb in enumerate(LEGEND_RGB)
    if number
}


def _retrieval_examples(
    names: list[str], examples: int, size: int, rng: np.random.Generator
) -> Iterator[RetrievalExample]:
    for dataset in names:
        for model in MODELS:
            for number in range(examples):
                to_text, rank = bool(number % 2), 1 + 2 * (number // 2)
                captions = [_CAPTION.format(n) for n in rng.integers(100, size=3)]
                picture = make_picture(rng, size)
                pictures = [] if to_text else [make_picture(rng, size) for _ in range(3)]
                yield RetrievalExample(
                    model=model,
                    dataset=dataset,
                    protocol=PROTOCOL,
                    direction="image_to_text" if to_text else "text_to_image",
                    rank=rank,
                    query=picture if to_text else captions[0],
                    expected=captions[0] if to_text else picture,
                    retrieved=captions if to_text else pictures,
                    right=[place == rank for place in (1, 2, 3)],
                )


def _sample_examples(names: list[str], rng: np.random.Generator) -> Iterator[SampleExample]:
    for dataset in names:
        for _ in range(60):
            label, other = (f"class number {n}" for n in rng.permutation(40)[:2])
            right = rng.random(len(MODELS)) < 0.7
            yield SampleExample(
                dataset=dataset,
                protocol=PROTOCOL,
                image=make_picture(rng, 112),
                text=label,
                group=label,
                outcomes={
                    model: Outcome(label if is_right else other, bool(is_right))
                    for model, is_right in zip(MODELS, right, strict=True)
                },
            )


def _segmentation_examples(
    names: list[str], examples: int, size: int, rng: np.random.Generator
) -> Iterator[SegmentationExample]:
    for dataset in names:
        for number in range(examples):
            yield SegmentationExample(
                dataset=dataset,
                protocol=PROTOCOL,
                name=f"{dataset}-{number:06}",
                image=make_picture(rng, 2 * size),
                truth=make_map(rng, 2 * size),
                predictions={model: make_map(rng, 2 * size) for model in MODELS},
                legend=_LEGEND,
            )


def _attention_examples(
    dataset: str, examples: int, size: int, rng: np.random.Generator
) -> Iterator[AttentionExample]:
    for number in range(examples):
        caption = _CAPTION.format(number)
        words = [WordShare(text, 0.1, float(rng.random()), True) for text in caption.split()]
        yield AttentionExample(
            dataset=dataset,
            name=f"{dataset}-{number:06}",
            caption=caption,
            image=make_picture(rng, size),
            maps={model: make_picture(rng, size, cells=5) for model in MODELS},
            kinds={
                model: "cross-attention"
                if model.startswith("cosmos:")
                else "text-to-patch similarity"
                for model in MODELS
            },
            words={model: words for model in MODELS if model.startswith("cosmos:")},
        )
