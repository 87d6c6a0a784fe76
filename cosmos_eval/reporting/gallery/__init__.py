"""Collect examples with pictures that illustrate results. Imports no torch."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cosmos_eval.data.retrieval import open_data
from cosmos_eval.protocols import prepare
from cosmos_eval.protocols.scenes import PROTOCOL_NAME as SCENES
from cosmos_eval.reporting.gallery.attention import AttentionSource
from cosmos_eval.reporting.gallery.classification import ClassificationSource
from cosmos_eval.reporting.gallery.pictures import Candidate, select
from cosmos_eval.reporting.gallery.records import KINDS, Gallery
from cosmos_eval.reporting.gallery.retrieval import RetrievalSource, captioned_images
from cosmos_eval.reporting.gallery.segmentation import SegmentationSource
from cosmos_eval.reporting.gallery.source import (
    ImageWithText,
    Request,
    ResultSource,
    Source,
    group_results,
    run_requests,
)
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.runner.overall import Stage
from cosmos_eval.runner.plan import ShowProgress, show_no_progress
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import Progress, RunOptions, base_protocol_name

BUDGET = 3_000_000
"""The most bytes of all pictures. A page that holds them as base64 text is a third larger."""

STAGES = (
    Stage("data sets", 1.0),
    Stage("outputs of models", 2.0),
    Stage("pictures", 1.0),
)
"""The stages of `collect`. Their sizes are rough: embeddings may be cached or not."""

# The captions of this set list small things, and their first sentence names one of them.
_SMALL_SCENES = "scenes-retrieval-small"


def collect(
    results: Iterable[StoredResult],
    options: RunOptions,
    *,
    datasets: Sequence[str] = (),
    predictions: Path | None = None,
    budget: int = BUDGET,
    show_progress: ShowProgress = show_no_progress,
) -> Gallery:
    """Return examples with pictures that illustrate results.

    Outputs of models are computed by the models on this machine that have the measured weights.
    Their embeddings are cached in `options.cache`. Nothing is downloaded. The notes of the gallery
    name what cannot be shown. Equal input gives equal bytes.

    Args:
        results: The results, as `read_checked` returns them.
        options: How data are opened and models are run.
        datasets: YAML files that describe users' data sets.
        predictions: A folder of `--save-predictions` with label maps, which then need no model.
        budget: The most bytes of all pictures.
        show_progress: Called with the progress.

    Raises:
        UsageError: For a YAML file that describes a data set without a result.
    """
    # Open the data of all results, and choose what to show of them.
    groups, notes = group_results(results, datasets)
    result_sources: list[ResultSource] = []
    for n_done, group in enumerate(groups):
        show_progress("pictures", Progress("data sets", n_done, len(groups)))
        result_source: ResultSource
        if group.task == "retrieval":
            result_source = RetrievalSource(group, options)
        elif group.task == "cls":
            result_source = ClassificationSource(group, options)
        else:
            result_source = SegmentationSource(group, options, predictions)
        result_sources.append(result_source)
    images_with_texts = attention_examples(result_sources, options)
    all_sources: list[Source] = [*result_sources, AttentionSource(groups, images_with_texts)]

    # Compute the outputs of models that the examples need.
    requests: list[Request] = []
    for source in all_sources:
        requests += source.requests
    refusal_notes = run_requests(requests, options.device, show_progress)

    # Draw as many examples as fit into the budget.
    candidates: list[Candidate] = []
    for source in all_sources:
        candidates += source.candidates()
    progress = partial(show_progress, "pictures")
    examples, omission_notes = select(candidates, budget, options.workers, progress)

    for source in all_sources:
        notes += source.notes
    notes += [*refusal_notes, *omission_notes]
    examples_by_kind: dict[str, Any] = {}
    for kind in KINDS:
        examples_by_kind[kind] = tuple(example for example in examples if example.kind == kind)
    return Gallery(**examples_by_kind, notes=tuple(dict.fromkeys(notes)))


def attention_examples(sources: Sequence[ResultSource], options: RunOptions) -> list[ImageWithText]:
    """Choose the images and texts that attention maps are drawn for.

    These are captions of retrieval sets or, if there are none, prompts of classes. If results were
    measured on the scenes that come with this package, their captions that name one small thing
    come first.

    Args:
        sources: The sources of examples of all results, with their images and texts.
        options: How data are opened.
    """
    images_with_captions: list[ImageWithText] = []
    images_with_prompts: list[ImageWithText] = []
    has_scenes = False
    for source in sources:
        if base_protocol_name(source.protocol.protocol_name) == SCENES:
            has_scenes = True
        elif source.task == "retrieval":
            images_with_captions += source.images_with_texts
        else:
            images_with_prompts += source.images_with_texts
    if has_scenes:
        images_with_captions = _read_small_scenes(options) + images_with_captions
    return images_with_captions or images_with_prompts


def _read_small_scenes(options: RunOptions) -> list[ImageWithText]:
    """Return a few scenes of this package, each with a sentence that names one small thing.

    The caption of a scene names several small things, and its first sentence one of them.
    """
    protocol: Any = find_protocol(_SMALL_SCENES)
    prepare(protocol)  # renders the scenes unless they are there
    scenes = []
    for scene in captioned_images(protocol, open_data(protocol, options)):
        first_sentence = scene.text.partition(". ")[0]
        scenes.append(scene._replace(text=first_sentence))
    return scenes
