"""Label maps of single images, of a data set or of none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.tasks.label_maps import Label, Sample, check_constants
from cosmos_eval.tasks.label_maps.measure import with_patches
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation.images import LoadedImage, decode, load_image, normalised
from cosmos_eval.tasks.segmentation.inference import Segmenter, predict
from cosmos_eval.tasks.segmentation.model import fit_to_model
from cosmos_eval.tasks.segmentation.overlay import (
    Legend,
    Panel,
    Picture,
    Pixels,
    distinct_colours,
    picture,
    shares,
)
from cosmos_eval.types import RunOptions, SegmentationProtocol


def draw(
    encoder: Encoder, protocol: SegmentationProtocol, path: Path, options: RunOptions
) -> Picture:
    """The image, its label map under a protocol, and what the colours mean."""
    check_constants(protocol)
    image = decode(path)
    segmenter = _segmenter(encoder, protocol, options)
    fitted = segmenter.protocol
    unlabelled = np.full(image.shape[:2], fitted.ignore_index, np.uint8)
    sample = Sample(path.stem, path, path, {})
    loaded = LoadedImage(sample, normalised(image, fitted), unlabelled)
    (prediction,) = predict(segmenter, [loaded])
    n_classes = len(fitted.class_names)
    legend = Legend(
        fitted.class_names, distinct_colours(n_classes), shares(prediction.classes, n_classes)
    )
    rgb = _rgb(image)
    panels = [Panel(path.name, rgb), Panel(encoder.info.spec, rgb, prediction.classes)]
    return picture(panels, legend)


def predict_samples(
    encoder: Encoder,
    protocol: SegmentationProtocol,
    samples: Sequence[Sample],
    options: RunOptions,
) -> Iterator[Label]:
    """Predicted classes (H, W) of images of a data set, each at its original size."""
    segmenter = _segmenter(encoder, protocol, options)
    images = map(partial(load_image, protocol=segmenter.protocol), samples)
    return (prediction.classes for prediction in predict(segmenter, images))


def read_picture(sample: Sample) -> Image.Image:
    """The image as it is measured: RGB, turned as its EXIF says."""
    return Image.fromarray(_rgb(decode(sample.image)))


def _segmenter(encoder: Encoder, protocol: SegmentationProtocol, options: RunOptions) -> Segmenter:
    attention = options.attention or protocol.attention
    dense = with_patches(encoder, attention)
    fitted = fit_to_model(protocol, dense)
    names = [name for synonyms in fitted.queries for name in synonyms]
    queries = prompt_embeddings(encoder, names, fitted.templates, options)
    return Segmenter(dense, queries, fitted, attention, options.batch_size)


def _rgb(image: Pixels) -> Pixels:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
