"""The identity of the model of a result: its names, its settings and its hash."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cosmos_core.utils.files import json_sha256
from cosmos_eval.results.record import ResultRow

CONTENT = "content"
"""The key of a result's hash of the images and labels themselves, which older results lack."""


class ModelIdentity(NamedTuple):
    """The names of a model in a result, and the hash that equal models share."""

    # The specification that `--model` was given.
    spec: str
    # The name that was given to the model, or else its specification.
    name: str
    # Whether the weights are random.
    is_random: bool
    # The settings that differ from the defaults, such as `student` or `bf16`, in short words.
    variants: tuple[str, ...]
    # The hash that is equal for the same model under any name, see `model_sha256`.
    sha256: str

    @property
    def label(self) -> str:
        """The name with everything that differs from the defaults: "clip (student, bf16)"."""
        return labelled(self.name, [*self.random_words, *self.variants])

    @property
    def random_words(self) -> list[str]:
        """The words in labels that say that the weights are random, if they are."""
        return ["random weights"] if self.is_random else []


def model_identity(row: ResultRow) -> ModelIdentity:
    """Return the names and the hash of the model that a result was measured with."""
    spec = str(row.model["spec"])
    return ModelIdentity(
        spec=spec,
        name=str(row.model.get("name") or spec),
        is_random=row.model["random"],
        variants=variant_words(row),
        sha256=model_sha256(row),
    )


def labelled(name: str, words: list[str]) -> str:
    """Return a name with words in brackets: "clip", ["student"] -> "clip (student)".

    Without words, it is just the name.
    """
    return f"{name} ({', '.join(words)})" if words else name


def model_label(row: ResultRow) -> str:
    """Return the label of the model of a result, such as "clip (student, bf16)"."""
    return model_identity(row).label


def component_hashes(row: ResultRow) -> dict[str, str]:
    """Return the hash of each component of a result's model, by the name of the component.

    The components are the weights, the user's Python code, the architecture, and the auxiliary
    encoder that guides the attention. The hash is "none" if the model does not have the component.
    """
    model = row.model
    auxiliary = row.provenance.get("auxiliary")
    architecture = model["architecture"].encode(errors="replace")
    return {
        "weights": model["weights_sha256"] or "none",
        "code": model.get("code_sha256") or "none",
        "architecture": hashlib.sha256(architecture).hexdigest(),
        "auxiliary": json_sha256(auxiliary) if auxiliary else "none",
    }


def model_sha256(row: ResultRow) -> str:
    """Return the hash that all results of one model share, under any path or name.

    It covers the components of the model, and whether the weights are a student's or a teacher's.
    Random weights have no hash, so the specification of the model is hashed in their place.
    """
    model = row.model
    spec_of_random_weights = model["spec"] if model["random"] else False
    return json_sha256([component_hashes(row), model["weights"], spec_of_random_weights])


def variant_words(row: ResultRow) -> tuple[str, ...]:
    """Return short words for the settings of a result that differ from the defaults.

    Example: ("student", "bf16"). See `overrides_of`.
    """
    return overrides_of(row.provenance, student=row.model["weights"] == "student")


def overrides_of(settings: Mapping[str, Any], *, student: bool) -> tuple[str, ...]:
    """Return short words for the settings that differ from the defaults.

    `settings` is the provenance of a result, or the same fields of a planned result. Labels and
    file names contain these words, so that a result with other settings never overwrites the result
    with the default settings. Example: ("student", "bf16", "first 100 only").
    """
    words = ["student"] if student else []
    attention = settings["attention"]
    auxiliary = auxiliary_of(settings)
    if attention and auxiliary:
        words.append(f"{attention}: {auxiliary}")
    elif attention and attention != settings.get("protocol_attention", "csa"):
        words.append(attention)
    if settings["precision"] != "fp32":
        words.append(settings["precision"])
    if settings["limit"] is not None:
        words.append(f"first {settings['limit']} only")
    if settings.get("partial") is not None:
        words.append(f"partial ({settings['partial']})")
    return tuple(words)


def auxiliary_of(settings: Mapping[str, Any]) -> str | None:
    """Return the specification of the encoder that guides the attention, or None if there is none.

    `settings` is the provenance of a result, or the same fields of a planned result.
    """
    record = settings.get("auxiliary")
    return None if record is None else str(record["spec"])


def is_partial(row: ResultRow) -> bool:
    """Return whether a result was measured on some of the samples only.

    Either the number of samples was limited, or the data set on disk was incomplete.
    """
    return row.provenance["limit"] is not None or "partial" in row.provenance


def training_of(row: ResultRow) -> Mapping[str, Any]:
    """Return what a result records of its model's training, such as group and seed.

    The mapping is empty if the training is unknown.
    """
    return row.model.get("training") or {}


def group_label(row: ResultRow) -> str | None:
    """Return the label of the group of trainings that a result's model belongs to.

    The trainings of a group differ only in their seeds. The label is the name of the group, with
    the settings that differ from the defaults in brackets: "ours (bf16)". Returns None if the model
    states no group.
    """
    group = training_of(row).get("group")
    return labelled(group, list(variant_words(row))) if group else group


def data_identity(row: ResultRow) -> dict[str, str]:
    """Return what identifies the version of the data set that a result was measured on.

    These are the repository on the Hugging Face hub, the commit of the repository, and the hash of
    the images and labels. A field that the result does not record is empty.
    """
    provenance = row.provenance
    return {
        "repository": provenance.get("repository", ""),
        "revision": provenance.get("revision", ""),
        "content": provenance["hashes"].get(CONTENT, ""),
    }
