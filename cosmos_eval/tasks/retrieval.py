"""Image-text retrieval on images with captions in any of the forms of docs/data.md."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data.folders import exist_in, fetch_repository, several
from cosmos_eval.data.retrieval import RetrievalData, list_data, open_data, sample_list_hash
from cosmos_eval.models.encoder import Encoder, settings_of_pairs, with_pair_scores
from cosmos_eval.stats.estimates import Mean, MeanRank, Median
from cosmos_eval.stats.lengths import LengthBin, length_bins
from cosmos_eval.stats.random_ties import decide_any, random_ties
from cosmos_eval.stats.retrieval import (
    Candidates,
    best_candidates,
    ranks_of_pairs,
    retrieval_ranks,
)
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.task import NAME, Derived, Metric, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.embedding.pairs import PairScores

IMAGE_RANK = "image_to_text_rank"  # (N,) rank of every image's best caption, from 1
TEXT_RANK = "text_to_image_rank"  # (M,) rank of every caption's image, from 1
IMAGE_OF_TEXT = "image_of_text"  # (M,) index of every caption's image
# The probability that every image (N,), and every caption (M,), ranks a right item first if items
# with equal features are in random order; only where this order decides any query.
IMAGE_TIES = "image_to_text_random_ties"
TEXT_TIES = "text_to_image_random_ties"
# Results of older versions lack the next two.
WORDS = "words"  # (M,) number of every caption's words
CUT = "cut"  # (M,) whether a caption did not fit the model's context
FLOOR_MEDIAN = "floor_median"  # (1,) of the protocols with such medians; older results lack it
ARRAYS = (
    SampleArray(IMAGE_RANK, "whole number", ("images",), least=1, most="texts"),
    SampleArray(TEXT_RANK, "whole number", ("texts",), least=1, most="images"),
    SampleArray(IMAGE_OF_TEXT, "whole number", ("texts",), least=0, below="images"),
    SampleArray(IMAGE_TIES, "number", ("images",), least=0, most=1, optional=True),
    SampleArray(TEXT_TIES, "number", ("texts",), least=0, most=1, optional=True),
    SampleArray(WORDS, "whole number", ("texts",), least=0, optional=True),
    SampleArray(CUT, "truth value", ("texts",), optional=True),
    SampleArray(FLOOR_MEDIAN, "truth value", (1,), optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)
_IMAGE = "image"  # (N,) derived: index of every image
_TEXT_R1, _CUT_SHARE = "text_to_image_R@1", "captions_cut"  # metrics


def measure(
    encoder: Encoder,
    protocol: types.RetrievalProtocol,
    options: types.RunOptions,
    progress: types.OnProgress = types.no_progress,
    data: RetrievalData | None = None,
) -> types.Measurement:
    """Measure recall and ranks in both directions; `options.limit` keeps the first images."""
    found = data or open_data(protocol, options)
    settings = settings_of_pairs(encoder, protocol.pairs)

    def score(images: Features, texts: Embeddings) -> types.Samples:
        ranks = retrieval_ranks(images, texts.features, found.image_of_text)
        queries: dict[str, NDArray[Any]] = {}
        if protocol.pairs is None:
            ties = random_ties(ranks, images, texts.features, found.image_of_text)
            if decide_any(ties.image_to_text):
                queries[IMAGE_TIES] = ties.image_to_text
            if decide_any(ties.text_to_image):
                queries[TEXT_TIES] = ties.text_to_image
        else:
            candidates = candidates_of(protocol.pairs, images, texts.features)
            scores = scores_of(encoder, candidates, found, options, progress)
            ranks = ranks_of_pairs(candidates, scores, found.image_of_text, ranks)
        queries |= {IMAGE_RANK: ranks.image_to_text, TEXT_RANK: ranks.text_to_image}
        if protocol.floor_median:
            queries[FLOOR_MEDIAN] = np.array([True])
        words = np.array([len(caption.split()) for caption in found.captions])
        return {**queries, IMAGE_OF_TEXT: found.image_of_text, WORDS: words, CUT: texts.cut}

    hashes = {"sample_list": sample_list_hash(found)}
    given = encoder, found, options, progress, score
    return TASK.measure_captions(*given, names=found.names, hashes=hashes, settings=settings)


def candidates_of(pairs: int | str, images: Features, texts: Features) -> Candidates:
    """Return the items whose pairs with a query are scored: the best `pairs` of them, or `all`."""
    if isinstance(pairs, int):
        return best_candidates(images, texts, pairs)
    sizes = len(images), len(texts)
    return Candidates(
        texts=np.broadcast_to(np.arange(sizes[1]), sizes),
        images=np.broadcast_to(np.arange(sizes[0]), sizes[::-1]),
    )


def scores_of(
    encoder: Encoder,
    candidates: Candidates,
    data: RetrievalData,
    options: types.RunOptions,
    progress: types.OnProgress,
    most: int | None = None,
) -> PairScores:
    """Score the pairs of every query, image or text, with its candidates. Raises TooManyError where
    more than `most` are not cached."""
    from cosmos_eval.embedding.pairs import score_pairs

    wanted = [*candidates.images]
    if candidates.images.shape[1] < len(data.images):  # else all pairs are among these
        queries = np.broadcast_to(np.arange(len(data.images))[:, None], candidates.texts.shape)
        order = np.argsort(candidates.texts, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(candidates.texts.ravel(), minlength=len(wanted)))[:-1]
        of_text = np.split(queries.ravel()[order], ends)
        wanted = [np.concatenate(both) for both in zip(wanted, of_text, strict=True)]
    scorer = with_pair_scores(encoder)
    return score_pairs(scorer, data.images, data.captions, wanted, options, progress, most)


def _metrics(direction: str, ranks: str, image: str) -> Iterator[Metric]:
    """Metrics of ranks; an image is resampled with all its captions, which are not independent."""

    def recall(k: int, samples: Derived) -> Mean:
        return Mean(samples[ranks] <= k, samples[image])

    ties = f"{direction}_random_ties"

    def recall_of_random_ties(samples: Derived) -> Mean | None:
        return Mean(samples[ties], samples[image]) if ties in samples else None

    for k in (1, 5, 10):
        name = f"{direction}_R@{k}"
        yield Metric(name, partial(recall, k), label=name.replace("_", " "), primary=k == 1)
    yield Metric(
        f"{direction}_R@1_random_ties",
        recall_of_random_ties,
        label=f"{direction.replace('_', ' ')} R@1, random ties",
        headline=True,
        reference=True,
    )
    rank = partial(Metric, unit="rank", higher_is_better=False)
    yield rank(f"{direction}_mean_rank", lambda s: MeanRank(s[ranks], s[image]))
    yield rank(f"{direction}_median_rank", lambda s: Median(s[ranks], s[image], FLOOR_MEDIAN in s))


def _captions_cut(samples: Derived) -> Mean | None:
    return Mean(samples[CUT], samples[IMAGE_OF_TEXT]) if CUT in samples else None


def lengths(samples: types.Samples) -> list[LengthBin]:
    """Return text to image R@1 by the number of words; empty for results of older versions."""
    if WORDS not in samples:
        return []
    arrays = (samples[WORDS], samples[CUT], samples[TEXT_RANK] <= 1, samples[IMAGE_OF_TEXT])
    return length_bins(*arrays)


def _per_length(samples: types.Samples) -> dict[str, dict[str, float | None]]:
    return {
        one.name: {_TEXT_R1: one.recall.value, _CUT_SHARE: one.cut, "captions": one.captions}
        for one in lengths(samples)
    }


def _columns(samples: types.Samples) -> dict[str, Any]:
    """One row per query: the images, then the captions, numbered within their images."""
    of_text, n_images = samples[IMAGE_OF_TEXT], len(samples[IMAGE_RANK])
    image = np.concatenate([np.arange(n_images), of_text])
    query = np.repeat(["image", "caption"], [n_images, len(of_text)])
    starts = np.searchsorted(of_text, of_text)  # captions of an image follow each other
    number = np.concatenate([np.full(n_images, np.nan), np.arange(len(of_text)) - starts])
    return {
        **({"image": samples[NAME][image]} if NAME in samples else {}),
        "query": query,
        "caption": number,
        "rank": np.concatenate([samples[IMAGE_RANK], samples[TEXT_RANK]]),
    }


def _require_captions(samples: types.Samples) -> None:
    """Raise ValueError for an image without a caption."""
    captions = np.bincount(samples[IMAGE_OF_TEXT], minlength=len(samples[IMAGE_RANK]))
    if not captions.all():
        raise ValueError(f"image {captions.argmin()} has no text in `{IMAGE_OF_TEXT}`")


def _is_there(protocol: types.RetrievalProtocol, root: Path) -> bool:
    if protocol.archives:
        return any(any(root.glob(pattern)) for pattern in several(protocol.archives))
    return exist_in(root, protocol.annotations, protocol.images)


TASK = Task(
    protocol=types.RetrievalProtocol,
    metrics=(
        *_metrics("image_to_text", IMAGE_RANK, _IMAGE),
        *_metrics("text_to_image", TEXT_RANK, IMAGE_OF_TEXT),
        Metric(_CUT_SHARE, _captions_cut, label="captions cut", headline=True, reference=True),
    ),
    arrays=ARRAYS,
    require_consistent=_require_captions,
    per_sample=IMAGE_RANK,
    by_image=True,
    truth=(IMAGE_OF_TEXT,),
    open_data=open_data,
    checked="captions and their number, and that every image is there",
    measure=measure,
    derive=lambda samples: {**samples, _IMAGE: np.arange(len(samples[IMAGE_RANK]))},
    per_class=_per_length,
    lengths=lengths,
    columns=_columns,
    survey=lambda protocol, options, _: list_data(protocol, options).surveyed(protocol, options),
    is_there=_is_there,
    n_samples=lambda protocol: protocol.n_images,
    fetch=fetch_repository,
)
