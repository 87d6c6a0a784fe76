"""The label map of one image that belongs to no data set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cosmos_eval.encoder import Encoder
from cosmos_eval.tasks.label_maps import Sample, check_constants
from cosmos_eval.tasks.label_maps.patches import with_patches
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation._images import LoadedImage, decode, normalised
from cosmos_eval.tasks.segmentation._inference import Segmenter, predict
from cosmos_eval.tasks.segmentation._model import fit_to_model
from cosmos_eval.tasks.segmentation._overlay import (
    Legend,
    Panel,
    Picture,
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
    attention = options.attention or protocol.attention
    dense = with_patches(encoder, attention)
    fitted = fit_to_model(protocol, dense)
    names = [name for synonyms in fitted.queries for name in synonyms]
    queries = prompt_embeddings(encoder, names, fitted.templates, options)
    unlabelled = np.full(image.shape[:2], fitted.ignore_index, np.uint8)
    sample = Sample(path.stem, path, path, {})
    loaded = LoadedImage(sample, normalised(image, fitted), unlabelled)
    segmenter = Segmenter(dense, queries, fitted, attention, options.batch_size)
    (prediction,) = predict(segmenter, [loaded])
    rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    n_classes = len(fitted.class_names)
    legend = Legend(
        fitted.class_names, distinct_colours(n_classes), shares(prediction.classes, n_classes)
    )
    panels = [Panel(path.name, rgb), Panel(encoder.info.spec, rgb, prediction.classes)]
    return picture(panels, legend)
