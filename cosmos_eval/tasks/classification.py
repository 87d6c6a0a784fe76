"""Zero-shot classification on image folders, webdatasets and torchvision's sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data.class_folders import find_folder
from cosmos_eval.data.class_names import class_names, shown_names, templates_of
from cosmos_eval.data.classification import (
    ClassData,
    fetch,
    open_data,
    require_prompts,
    sample_list_hash,
    survey,
)
from cosmos_eval.data.folders import content_hash, fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.calibration import calibration_error
from cosmos_eval.stats.choices import (
    TOP,
    confusion_pairs,
    macro_f1,
    top_classes,
    top_confidences,
)
from cosmos_eval.stats.estimates import (
    Features,
    FunctionOfSums,
    FunctionOfWeights,
    GroupMean,
    Proportion,
    means_of_groups,
)
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.task import NAME, Metric, Task

LABELS = "labels"  # (N,) class numbers
TOP5 = "top5"  # (N, 5) predicted class numbers, best first, -1 where there are fewer classes;
# older results have as many columns then
CONFIDENCE = "confidence"  # (N,) probability of the first prediction; older results lack it
CLASSES = "classes"  # (C,) the data's own names, since several classes may share a prompt name
SHOWN = "class_names"  # (C,) for people, where the protocol names the classes otherwise
GROUP = "group"  # (N,) group numbers, where the data have groups
GROUPS = "groups"  # (G,) their names
METRICS = "metrics"  # (M,) names of metrics beside the usual ones, where the protocol has any
ARRAYS = (
    SampleArray(LABELS, "whole number", ("images",), least=0, below="classes"),
    SampleArray(TOP5, "whole number", ("images", None), least=-1, below="classes"),
    SampleArray(CONFIDENCE, "number", ("images",), least=0, most=1, optional=True),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(SHOWN, "text", ("classes",), optional=True),
    SampleArray(GROUP, "whole number", ("images",), least=0, below="groups", optional=True),
    SampleArray(GROUPS, "text", ("groups",), optional=True),
    SampleArray(METRICS, "text", ("metrics",), optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)
_HITS = "hits"  # (N, 5) derived: whether a prediction is the label
_LOGIT_SCALE = 100  # CLIP's (Radford et al. 2021, section 2.5), which CLIP Benchmark uses for all


def measure(
    encoder: Encoder,
    protocol: types.ClassificationProtocol,
    options: types.RunOptions,
    progress: types.OnProgress = types.no_progress,
    data: ClassData | None = None,
) -> types.Measurement:
    """Measure accuracy and recall; `options.limit` keeps the first images of classes in turn."""
    found = data or open_data(protocol, options)

    def score(images: Features, classifier: Features) -> types.Samples:
        top = top_classes(images, classifier)
        samples = {
            LABELS: found.labels,
            TOP5: np.pad(top, ((0, 0), (0, TOP - top.shape[1])), constant_values=-1),
            CONFIDENCE: top_confidences(images, classifier, _LOGIT_SCALE),
            CLASSES: np.array(found.classes),
            **names_for_people(protocol, found),
        }
        if protocol.metrics:
            samples[METRICS] = np.array(protocol.metrics)
        if found.group is not None:
            samples |= {GROUP: found.group, GROUPS: np.array(found.groups)}
        return samples

    prompts = [(class_names(protocol, found), templates_of(protocol, found))]
    return measure_by_prompts(TASK, encoder, protocol, options, progress, found, prompts, score)


def measure_by_prompts(
    task: Task,
    encoder: Encoder,
    protocol: types.ClassificationProtocol,
    options: types.RunOptions,
    progress: types.OnProgress,
    data: ClassData,
    prompts: Sequence[tuple[Sequence[str], tuple[str, ...] | str]],
    score: Callable[[Features, Features], types.Samples],
) -> types.Measurement:
    """Measure what `score` makes of the features of images (N, D) and the embeddings of classes
    (C, D), whose names and templates are in one or several `prompts`."""
    from cosmos_eval.embedding.embed import embed_images
    from cosmos_eval.tasks.prompts import prompt_embeddings, resolve_templates

    started = perf_counter()
    parts = [prompt_embeddings(encoder, *one, options, progress) for one in prompts]
    prompted = perf_counter()
    images = embed_images(encoder, data.images, options, progress)
    group = None if data.group is None else data.group.tolist()
    return task.measurement(
        score(images.features, np.concatenate(parts)),
        options,
        names=data.names,
        content=content_hash(images.image_sha256s, data.labels),
        hashes={
            "class_names": fingerprint([name for names, _ in prompts for name in names]),
            "templates": fingerprint([t for _, some in prompts for t in resolve_templates(some)]),
            "sample_list": sample_list_hash(data),
            **({"groups": fingerprint([data.groups, group])} if group is not None else {}),
        },
        seconds={"prompts": prompted - started, "images": perf_counter() - prompted},
        notes=[f"{protocol.dataset}: {protocol.remark}"] if protocol.remark else [],
    )


def names_for_people(
    protocol: types.ClassificationProtocol, data: ClassData
) -> dict[str, NDArray[np.str_]]:
    """Return the array of the names of classes, where these are not the data's own."""
    is_named = protocol.class_names or protocol.class_list
    return {SHOWN: np.array(shown_names(protocol, data))} if is_named else {}


def shown(samples: types.Samples) -> list[str]:
    """Return the names of classes for people."""
    found: list[str] = samples.get(SHOWN, samples[CLASSES]).tolist()
    return found


def mistakes(samples: types.Samples) -> types.Mistakes:
    """Count what images of every class were taken for."""
    labels, predicted = samples[LABELS].astype(np.int64), samples[TOP5][:, 0]
    classes = shown(samples)
    pairs, images = np.unique(labels * len(classes) + predicted, return_counts=True)
    true, taken_for = np.divmod(pairs, len(classes))
    wrong = true != taken_for
    totals = np.bincount(labels, minlength=len(classes))
    return types.Mistakes("images", classes, true[wrong], taken_for[wrong], images[wrong], totals)


def _columns(samples: types.Samples) -> dict[str, Any]:
    classes, hits = np.array(shown(samples)), samples[TOP5] == samples[LABELS][:, None]
    groups = {"group": samples[GROUPS][samples[GROUP]]} if GROUP in samples else {}
    return {
        "label": classes[samples[LABELS]],
        "prediction": classes[samples[TOP5][:, 0]],
        "score": samples.get(CONFIDENCE),
        "rank": np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.nan),
        **groups,
    }


def _confusion_pairs(samples: types.Samples) -> list[dict[str, Any]]:
    classes = shown(samples)
    return [
        {"true": classes[true], "predicted": classes[predicted], "images": images}
        for true, predicted, images in confusion_pairs(samples[LABELS], samples[TOP5][:, 0])
    ]


def _acc5(samples: Mapping[str, Any]) -> Proportion | None:
    """Of fewer than five classes there is none, as in CLIP Benchmark, but in older results."""
    return None if (samples[TOP5] < 0).any() else Proportion(samples[_HITS].any(axis=1))


def _ece(samples: Mapping[str, Any]) -> FunctionOfSums | None:
    if CONFIDENCE not in samples:
        return None
    return calibration_error(samples[CONFIDENCE], samples[_HITS][:, 0])


def _f1(samples: Mapping[str, Any]) -> FunctionOfWeights | None:
    wanted = "f1_macro" in samples.get(METRICS, ())
    return macro_f1(samples[LABELS], samples[TOP5][:, 0]) if wanted else None


def _worst_group(samples: Mapping[str, Any], k: int = 1) -> GroupMean | None:
    if GROUP not in samples or (k != 1 and f"worst_group_acc{k}" not in samples.get(METRICS, ())):
        return None
    if k != 1 and (samples[TOP5] < 0).any():
        return None
    return GroupMean(samples[_HITS][:, :k].any(axis=1), groups=samples[GROUP], lowest=True)


def _of_group(samples: Mapping[str, Any], group: str) -> Proportion:
    return Proportion(samples[_HITS][samples[GROUP] == samples[GROUPS].tolist().index(group), 0])


def _groups(samples: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of groups that have images."""
    if GROUP not in samples:
        return ()
    return [str(name) for name in samples[GROUPS][np.unique(samples[GROUP])]]


def _upgrade(samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
    """Add the classes, by their numbers of images: records hold them in alphabetical order."""
    classes = sorted(record["per_class"])
    images = [record["per_class"][name].get("images") for name in classes]
    if images != np.bincount(samples[LABELS], minlength=len(classes)).tolist():
        raise ValueError("the order of the classes is unknown")
    return {**samples, CLASSES: np.array(classes)}


def _require_consistent(samples: types.Samples) -> None:
    """Raise ValueError for images without a prediction, and groups without names."""
    columns = samples[TOP5].shape[1]
    if not 1 <= columns <= TOP or (samples[TOP5][:, 0] < 0).any():
        raise ValueError(f"`{TOP5}` has no first prediction, or more than {TOP} of an image")
    if (GROUP in samples) != (GROUPS in samples):
        raise ValueError(f"`{GROUP}` and `{GROUPS}` are stored together")


def _is_there(protocol: types.ClassificationProtocol, root: Path) -> bool:
    try:
        return bool(find_folder(protocol, types.RunOptions(data_root=str(root))))
    except types.UsageError:
        return False


TASK = Task(
    protocol=types.ClassificationProtocol,
    metrics=(
        Metric("acc1", lambda samples: Proportion(samples[_HITS][:, 0]), primary=True),
        Metric("acc5", _acc5),
        Metric("mean_per_class_recall", lambda s: GroupMean(s[_HITS][:, 0], groups=s[LABELS])),
        Metric("ece", _ece, higher_is_better=False, label="ECE"),
        Metric("worst_group_acc1", _worst_group, label="worst-group acc1", headline=True),
        Metric(
            "worst_group_acc5",
            partial(_worst_group, k=5),
            label="worst-group acc5",
            headline=True,
        ),
        Metric("f1_macro", _f1, label="macro F1", headline=True),
        Metric("acc1_*", _of_group, members=_groups),
    ),
    truth=(LABELS,),
    arrays=ARRAYS,
    require_consistent=_require_consistent,
    names_hash="sample_list",
    by_image=True,
    open_data=open_data,
    checked="class folders or lists, and how many images are there",
    measure=measure,
    derive=lambda samples: {**samples, _HITS: samples[TOP5] == samples[LABELS][:, None]},
    per_class=lambda s: means_of_groups(
        shown(s), s[LABELS], {"recall": s[TOP5][:, 0] == s[LABELS]}, "images"
    ),
    confusion_pairs=_confusion_pairs,
    mistakes=mistakes,
    upgrade=_upgrade,
    columns=_columns,
    check=require_prompts,
    survey=survey,
    is_there=_is_there,
    n_samples=lambda protocol: protocol.n_images,
    fetch=fetch,
    resamples=False,
)
