"""Many samples as thumbnails, each with what every model made of it. Imports no torch.

Shapes: K models, N samples.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.class_names import ClassData, shown_names
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.data.retrieval import RetrievalData
from cosmos_eval.data.sources import decoded
from cosmos_eval.report.content import Sampled
from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import Outcome, SampleExample
from cosmos_eval.stats.segmentation import class_scores
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.classification import LABELS, TOP5
from cosmos_eval.tasks.retrieval import TEXT_RANK
from cosmos_eval.tasks.segmentation import AREAS, NAME, pictures
from cosmos_eval.types import ClassificationProtocol, SegmentationProtocol
from cosmos_eval.types import Samples as Stored

MOST = 60
"""Samples of a data set at most."""
_THUMBNAIL = 112  # longest side in pixels
_LEAST_SHARE = 0.001  # of an image's pixels, for a class to be a sample
_RIGHT = 0.5  # the IoU from which on a class is found


class Judged(NamedTuple):
    """What K models made of N samples: whether each is `right` (K, N), the `kind` (N,) of samples
    that are to be varied, and functions of an index: the image, what is stated of it, and of a
    model and an index what it answered."""

    right: NDArray[np.bool_]
    kind: NDArray[Any]
    image: Callable[[int], Image.Image]  # raises UsageError for a damaged one
    describe: Callable[[int], dict[str, Any]]
    answer: Callable[[int, int], str]


def sample_candidates(
    opened: Sequence[tuple[Sampled, Any]], judge: Callable[[Any, list[Stored]], Judged]
) -> Iterator[Candidate]:
    """Return samples of results with the data they were measured on, for each list of samples."""
    by_data: dict[int, list[tuple[Sampled, Any]]] = {}
    for result, data in opened:
        by_data.setdefault(id(data), []).append((result, data))
    for own in by_data.values():
        results = [result for result, _ in own]
        judged = judge(own[0][1], [result.samples for result in results])
        for turn, index in enumerate(choose(judged.right, judged.kind)):
            yield Candidate(
                turn // SampleExample.in_a_round, partial(_draw, results, judged, index)
            )


def choose(right: NDArray[np.bool_], kind: NDArray[Any], most: int = MOST) -> list[int]:
    """Return indices of samples: of those that the same models have right, one after the other,
    first where models differ, and of different kinds where there are any."""
    order = np.random.default_rng(0).permutation(len(kind))
    patterns = np.unique(right[:, order], axis=1, return_inverse=True)[1].ravel()
    kinds = np.unique(kind[order], return_inverse=True)[1]
    varied = np.argsort(_turns(patterns * (kinds.max(initial=0) + 1) + kinds), kind="stable")
    alike = (right == right[:1]).all(axis=0)[order[varied]]
    chosen = order[varied][np.lexsort((alike, _turns(patterns[varied])))]
    return chosen[:most].tolist()


def _turns(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each number how many equal ones are before it."""
    order = np.argsort(numbers, kind="stable")
    found = np.empty(len(numbers), np.int64)
    found[order] = np.arange(len(numbers)) - np.searchsorted(numbers[order], numbers[order])
    return found


def _draw(results: Sequence[Sampled], judged: Judged, index: int, canvas: Canvas) -> SampleExample:
    return SampleExample(
        dataset=results[0].row.dataset,
        protocol=results[0].row.protocol,
        image=canvas.large(judged.image(index), _THUMBNAIL),
        outcomes={
            result.model: Outcome(judged.answer(model, index), bool(judged.right[model, index]))
            for model, result in enumerate(results)
        },
        **judged.describe(index),
    )


def judge_classes(
    protocol: ClassificationProtocol, data: ClassData, samples: list[Stored]
) -> Judged:
    """Images, which are right where the first predicted class is theirs."""
    labels, top = samples[0][LABELS], [some[TOP5] for some in samples]
    names = shown_names(protocol, data)
    return Judged(
        right=np.stack([some[:, 0] == labels for some in top]),
        kind=labels,
        image=lambda index: decoded(data.images[index]),
        describe=lambda index: {"text": names[labels[index]], "group": names[labels[index]]},
        answer=lambda model, index: names[top[model][index, 0]],
    )


def judge_captions(data: RetrievalData, samples: list[Stored]) -> Judged:
    """Captions with their images, which are right where the image is found first."""
    ranks = np.stack([some[TEXT_RANK] for some in samples])
    words = np.array([len(caption.split()) for caption in data.captions])
    return Judged(
        right=ranks == 1,
        kind=np.digitize(words, np.quantile(words, (0.25, 0.5, 0.75))),
        image=lambda index: decoded(data.images[data.image_of_text[index]]),
        describe=lambda index: {"text": data.captions[index], "words": int(words[index])},
        answer=lambda model, index: f"rank {ranks[model, index]}",
    )


def judge_maps(protocol: SegmentationProtocol, data: LabelMaps, samples: list[Stored]) -> Judged:
    """Classes of images, which are right from an IoU of 0.5 in the image on."""
    n_images = min(len(some[NAME]) for some in samples)  # each result has the first ones
    areas = [segmentation.TASK.derive(some)[AREAS] for some in samples]
    pixels = areas[0].labelled[:n_images]
    shares = pixels / np.maximum(1, pixels.sum(axis=1, keepdims=True))
    images, classes = np.nonzero(shares >= _LEAST_SHARE)
    iou = np.stack([class_scores(one).iou[images, classes] for one in areas])
    names = protocol.class_names
    return Judged(
        right=iou >= _RIGHT,
        kind=classes,
        image=lambda index: pictures.read_image(data.samples[images[index]].image),
        describe=lambda index: {
            "text": names[classes[index]],
            "group": names[classes[index]],
            "size": float(shares[images[index], classes[index]]),
        },
        answer=lambda model, index: f"IoU {100 * iou[model, index]:.0f}%",
    )
