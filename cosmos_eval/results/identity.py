"""The identity of the model of a result: its names, its settings and its hash."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cosmos_core.utils.files import json_sha256
from cosmos_eval.results.record import ResultRow

CONTENT = "content"
"""Name of the hash of the content that was measured; results of older versions lack it."""


class ModelIdentity(NamedTuple):
    """The names of a model in a result, and the hash by which models are the same."""

    # The specification that `--model` was given.
    spec: str
    # The name that was given to the model, or else its specification.
    name: str
    # Whether the weights are random.
    is_random: bool
    # What differs from the default settings, such as `student` or `bf16`; empty for a plain result.
    variants: tuple[str, ...]
    # The hash of everything that makes the model the same, `model_sha256`.
    sha256: str

    @property
    def label(self) -> str:
        """The name, followed in brackets by everything that differs from the defaults."""
        return labelled(self.name, [*self.random_words, *self.variants])

    @property
    def random_words(self) -> list[str]:
        return ["random weights"] if self.is_random else []


def model_identity(row: ResultRow) -> ModelIdentity:
    """Return the identity of the model that a result was measured with."""
    spec = str(row.model["spec"])
    return ModelIdentity(
        spec=spec,
        name=str(row.model.get("name") or spec),
        is_random=row.model["random"],
        variants=variants(row),
        sha256=model_sha256(row),
    )


def labelled(name: str, words: list[str]) -> str:
    """Return a name with words in brackets: "clip" and ["student"] -> "clip (student)".

    Without words it is just the name.
    """
    return f"{name} ({', '.join(words)})" if words else name


def model_label(row: ResultRow) -> str:
    """Return the label of the model of a result, which is its `ModelIdentity.label`."""
    return model_identity(row).label


def component_hashes(row: ResultRow) -> dict[str, str]:
    """Return a hash of each component of a model, `none` for a component that it does not have."""
    model, auxiliary = row.model, row.provenance.get("auxiliary")
    architecture = model["architecture"].encode(errors="replace")
    return {
        "weights": model["weights_sha256"] or "none",
        "code": model.get("code_sha256") or "none",
        "architecture": hashlib.sha256(architecture).hexdigest(),
        "auxiliary": json_sha256(auxiliary) if auxiliary else "none",
    }


def model_sha256(row: ResultRow) -> str:
    """Return the hash that is equal for results of the same model, under any path or name.

    It covers the weights and whether they are a student's, the Python file with its arguments, the
    architecture and the auxiliary encoder. Random weights have no hash, so the specification is
    hashed instead.
    """
    model = row.model
    return json_sha256([component_hashes(row), model["weights"], model["random"] and model["spec"]])


def variants(row: ResultRow) -> tuple[str, ...]:
    """Return in short words the settings of a result that differ from the defaults.

    See `overrides_of`. Example: ("student", "bf16").
    """
    return overrides_of(row.provenance, student=row.model["weights"] == "student")


def overrides_of(settings: Mapping[str, Any], *, student: bool) -> tuple[str, ...]:
    """Return in short words the settings that differ from the defaults; empty without any.

    `settings` are a provenance, or the same fields of a result that is planned. Labels and file
    names have these words, so a result of other settings never overwrites the usual one.
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
    """Return the specification of the encoder that guides the model, or None without one."""
    record = settings.get("auxiliary")
    return None if record is None else str(record["spec"])


def is_partial(row: ResultRow) -> bool:
    """Return whether a result was measured on a part of the samples only."""
    return row.provenance["limit"] is not None or "partial" in row.provenance


def training_of(row: ResultRow) -> Mapping[str, Any]:
    """Return the record of the training of a result's model, which is empty if it has none."""
    return row.model.get("training") or {}


def group_label(row: ResultRow) -> str | None:
    """Return the name of the group of trainings that a result's model belongs to, with what differs
    from the defaults in brackets; None if the model states no group."""
    group = training_of(row).get("group")
    return labelled(group, list(variants(row))) if group else group


def data_identity(row: ResultRow) -> dict[str, str]:
    """Return what identifies the files that were measured: the repository of the hub, its commit
    and the hash of the content. A field that the result does not record is empty."""
    provenance = row.provenance
    return {
        "repository": provenance.get("repository", ""),
        "revision": provenance.get("revision", ""),
        "content": provenance["hashes"].get(CONTENT, ""),
    }
