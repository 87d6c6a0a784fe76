"""Encode images and captions, rank, and put a retrieval measurement together."""

from __future__ import annotations

from time import perf_counter

from cosmos_eval.data.folders import limit_notes, truncation_notes
from cosmos_eval.data.retrieval import RetrievalData, sample_list_hash
from cosmos_eval.embedding.embed import embed_images, embed_texts
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.retrieval import retrieval_ranks
from cosmos_eval.tasks.retrieval.samples import IMAGE_OF_TEXT, IMAGE_RANK, TEXT_RANK, recompute
from cosmos_eval.types import Measurement, OnProgress, RunOptions


def measure_data(
    encoder: Encoder, data: RetrievalData, options: RunOptions, progress: OnProgress
) -> Measurement:
    """Measure an encoder on opened data."""
    started = perf_counter()
    images = embed_images(encoder, data.images, options, progress)
    imaged = perf_counter()
    texts = embed_texts(encoder, data.captions, options, progress, phase="captions")
    captioned = perf_counter()
    ranks = retrieval_ranks(images.features, texts.features, data.image_of_text)
    samples = {
        IMAGE_RANK: ranks.image_to_text,
        TEXT_RANK: ranks.text_to_image,
        IMAGE_OF_TEXT: data.image_of_text,
    }
    return Measurement(
        **vars(recompute(samples, options.seed)),
        samples=samples,
        hashes={"sample_list": sample_list_hash(data)},
        seconds={
            "images": imaged - started,
            "captions": captioned - imaged,
            "metrics": perf_counter() - captioned,
        },
        notes=(*limit_notes(options), *truncation_notes(texts.truncated, len(data.captions))),
    )
