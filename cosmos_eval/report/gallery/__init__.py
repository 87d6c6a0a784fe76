"""Single samples that stand for results: pictures with the outputs of models. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cosmos_eval.data.retrieval import open_data
from cosmos_eval.protocols import prepare
from cosmos_eval.protocols.scenes import FAMILY as SCENES
from cosmos_eval.report.gallery.attention import AttentionSource
from cosmos_eval.report.gallery.classification import ClassificationSource
from cosmos_eval.report.gallery.pictures import select
from cosmos_eval.report.gallery.records import KINDS, Gallery
from cosmos_eval.report.gallery.retrieval import RetrievalSource, captioned_images
from cosmos_eval.report.gallery.segmentation import SegmentationSource
from cosmos_eval.report.gallery.source import Group, Pair, Source, group_results, run_requests
from cosmos_eval.runner.plan import Watch, unwatched
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import Progress, RunOptions, base_family

BUDGET = 3_000_000
"""Bytes of all pictures. A page that holds them as base64 text is a third larger."""

# Its captions list small things; the first sentence names one.
_SMALL_SCENES = "scenes-retrieval-small"


def collect(
    results: Sequence[Path],
    options: RunOptions,
    *,
    datasets: Sequence[str] = (),
    predictions: Path | None = None,
    budget: int = BUDGET,
    watch: Watch = unwatched,
) -> Gallery:
    """Return examples with pictures of the results in files; equal input gives equal bytes.

    `datasets` are YAML files of users' data sets. Label maps come from `predictions`, a folder of
    `--save-predictions`, or from a model on this machine with the measured weights, as all other
    outputs, with the embeddings cached in `options.cache`. Nothing is fetched. `notes` name what
    cannot be shown. Raises UsageError for files that are no results and YAML files of no result.
    """
    source_of: Mapping[str, Callable[[Group, RunOptions], Source]] = {
        "retrieval": RetrievalSource,
        "cls": ClassificationSource,
        "seg": partial(SegmentationSource, predictions=predictions),
    }
    groups, notes = group_results(results, datasets)
    sources: list[Source] = []
    for done, group in enumerate(groups):
        watch("pictures", Progress("data sets", done, len(groups)))
        sources.append(source_of[group.task](group, options))
    sources.append(AttentionSource(groups, _pairs(groups, sources, options)))
    requests = [one for source in sources for one in source.requests]
    refusals = run_requests(requests, options.device, watch)
    candidates = [one for source in sources for one in source.candidates()]
    shown, left_out = select(candidates, budget, options.workers, partial(watch, "pictures"))
    notes += [*(note for source in sources for note in source.notes), *refusals, *left_out]
    by_kind: dict[str, Any] = {kind: tuple(e for e in shown if e.kind == kind) for kind in KINDS}
    return Gallery(**by_kind, notes=tuple(dict.fromkeys(notes)))


def _pairs(groups: Sequence[Group], sources: Sequence[Source], options: RunOptions) -> list[Pair]:
    """Choose images and texts for attention maps: captions, or prompts of classes without any.
    Those of the embedded scenes, if any result is of them, name small things."""
    of_groups = zip(groups, sources, strict=True)
    others = [(g.task, s.pairs) for g, s in of_groups if base_family(g.protocol.family) != SCENES]
    pairs = [pair for task, some in others if task == "retrieval" for pair in some]
    if len(others) < len(groups):
        protocol: Any = find_protocol(_SMALL_SCENES)
        prepare(protocol)
        scenes = captioned_images(protocol, open_data(protocol, options))
        pairs = [*(s._replace(text=s.text.partition(". ")[0]) for s in scenes), *pairs]
    return pairs or [pair for _, some in others for pair in some]
