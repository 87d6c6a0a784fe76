"""The identity of the model of a result: its names, its settings and its hash."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cosmos_core.utils.files import json_sha256
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import UsageError

CONTENT = "content"
"""The key of a result's hash of the images and labels themselves, which older results lack."""
STOPPED = "stopped"
"""The field of the provenance that says when and why a run stopped before the last sample."""
STOPPED_EARLY = "the run stopped before the last sample: run it again without --until"


class ModelIdentity(NamedTuple):
    """The names of a model in a result, and the hash that equal models share."""

    # The specification that `--model` was given.
    spec: str
    # The name that was given to the model, or else its specification.
    name: str
    # ("random weights",) if the weights are random, and else (). Labels contain these words.
    random_words: tuple[str, ...]
    # Short words for the settings that differ from the defaults, such as ("student", "bf16").
    variants: tuple[str, ...]
    # The hash that is equal for the same model under any name, see `model_sha256`.
    sha256: str
    # The hash that is equal for the same model in any files, None if the result does not record it.
    loaded_sha256: str | None = None

    @property
    def hashes(self) -> set[str]:
        """The hashes of the model. Two models are the same if they have a hash in common."""
        return {self.sha256} if self.loaded_sha256 is None else {self.sha256, self.loaded_sha256}

    @property
    def label(self) -> str:
        """The name with everything that differs from the defaults: "clip (student, bf16)"."""
        return labelled(self.name, [*self.random_words, *self.variants])


def model_identity(row: ResultRow) -> ModelIdentity:
    """Return the names and the hash of the model that a result was measured with."""
    model = row.model
    spec = str(model["spec"])
    is_student = model["weights"] == "student"
    return ModelIdentity(
        spec=spec,
        name=str(model.get("name") or spec),
        random_words=("random weights",) if model["random"] else (),
        variants=overrides_of(row.provenance, student=is_student),
        sha256=model_sha256(row),
        loaded_sha256=_loaded_model_sha256(row),
    )


def labelled(name: str, words: Sequence[str]) -> str:
    """Return a name that is followed by words in brackets. Without words, return just the name.

    Example:
        labelled("clip", ["student", "bf16"]) -> "clip (student, bf16)"
        labelled("clip", []) -> "clip"
    """
    if not words:
        return name
    return f"{name} ({', '.join(words)})"


def model_label(row: ResultRow) -> str:
    """Return the label of the model of a result, such as "clip (student, bf16)"."""
    return model_identity(row).label


def component_hashes(row: ResultRow) -> dict[str, str]:
    """Return a hash of each component of the model that a result was measured with.

    Args:
        row: The result.

    Returns:
        A dictionary with the SHA-256, in hexadecimal, of each component:
        - "weights": the weights
        - "code": the user's Python file that defines the model
        - "architecture": the name of the architecture
        - "auxiliary": the record of the auxiliary encoder, which guides the attention
        - "preprocessing": the preprocessing of images, if it is not the usual one
        A component that the model does not have is "none".
    """
    model = row.model
    architecture_bytes = model["architecture"].encode(errors="replace")
    auxiliary_record = row.provenance.get("auxiliary")
    return {
        "weights": model["weights_sha256"] or "none",
        "code": model.get("code_sha256") or "none",
        "architecture": hashlib.sha256(architecture_bytes).hexdigest(),
        "auxiliary": json_sha256(auxiliary_record) if auxiliary_record else "none",
        "preprocessing": model.get("preprocessing_sha256") or "none",
    }


def model_sha256(row: ResultRow) -> str:
    """Return the hash that all results of one model share, under any path or name.

    It covers the components of the model, and whether the weights are a student's or a teacher's.
    Random weights have no hash, so the specification of the model is hashed in their place. Usual
    preprocessing does not count, so that models have the hash that older versions gave them.
    """
    model = row.model
    hashes = component_hashes(row)
    if hashes["preprocessing"] == "none":
        del hashes["preprocessing"]
    student_or_teacher = model["weights"]
    # `False` stands for weights that are not random, which have a hash.
    spec_of_random_weights = model["spec"] if model["random"] else False
    return json_sha256([hashes, student_or_teacher, spec_of_random_weights])


def _loaded_model_sha256(row: ResultRow) -> str | None:
    """Return the hash that all results of one model share, from any files.

    It covers the tensors and the configuration in place of the file of the weights and the name of
    the architecture. None if the result does not record them.
    """
    loaded_sha256 = row.model.get("loaded_sha256")
    if loaded_sha256 is None:
        return None
    hashes = component_hashes(row)
    components = [loaded_sha256, hashes["code"], hashes["auxiliary"]]
    if hashes["preprocessing"] != "none":
        components.append(hashes["preprocessing"])
    return json_sha256(components)


def overrides_of(settings: Mapping[str, Any], *, student: bool) -> tuple[str, ...]:
    """Return short words for the settings that differ from the defaults.

    Labels and file names contain these words, so that a result with other settings never overwrites
    the result with the default settings.

    Args:
        settings: The provenance of a result, or the same fields of a planned result.
        student: True if the weights belong to the student of a distillation.

    Returns:
        One word or phrase per setting, such as ("student", "bf16", "first 100 only").
    """
    words = ["student"] if student else []

    # The form of attention in the last block of the image tower, which segmentation may change.
    if has_other_attention(settings):
        auxiliary = auxiliary_of(settings)
        attention = settings["attention"]
        words.append(f"{attention}: {auxiliary}" if auxiliary else attention)

    if settings["precision"] != "fp32":
        words.append(settings["precision"])
    if settings["limit"] is not None:
        words.append(f"first {settings['limit']} only")
    if settings.get("partial") is not None:
        words.append(f"partial ({settings['partial']})")
    if settings.get(STOPPED) is not None:
        n_samples = settings[STOPPED]["looks"][-1][0]
        words.append(f"stopped after {n_samples} of {settings['stopped']['samples']}")
    return tuple(words)


def has_other_attention(settings: Mapping[str, Any]) -> bool:
    """Return whether the last block of the image tower had another attention than the protocol's.

    `settings` is the provenance of a result, or the same fields of a planned result.
    """
    attention = settings["attention"]
    if not attention:
        return False
    protocol_attention = settings.get("protocol_attention", "csa")
    return auxiliary_of(settings) is not None or attention != protocol_attention


def auxiliary_of(settings: Mapping[str, Any]) -> str | None:
    """Return the specification of the encoder that guides the attention, or None if there is none.

    `settings` is the provenance of a result, or the same fields of a planned result.
    """
    auxiliary_record = settings.get("auxiliary")
    if auxiliary_record is None:
        return None
    return str(auxiliary_record["spec"])


def is_partial(row: ResultRow) -> bool:
    """Return whether a result was measured on some of the samples only.

    The number of samples was limited, the data set on disk was incomplete, or the run stopped when
    the answer was known.
    """
    provenance = row.provenance
    return provenance["limit"] is not None or "partial" in provenance or is_stopped(row)


def is_stopped(row: ResultRow) -> bool:
    """Return whether the run of a result stopped before the last sample."""
    return STOPPED in row.provenance


def require_whole(row: ResultRow, place: object) -> None:
    """Raise UsageError if the run of a result stopped before the last sample.

    `place` is its file, for the message.
    """
    if is_stopped(row):
        raise UsageError(f"{place}: {STOPPED_EARLY}")


def training_of(row: ResultRow) -> Mapping[str, Any]:
    """Return the record of the training of a result's model, which has keys such as "seed".

    See `TrainingRecord` for the keys. The mapping is empty if the training is unknown.
    """
    return row.model.get("training") or {}


def group_label(row: ResultRow) -> str | None:
    """Return the label of the group of trainings that a result's model belongs to.

    The trainings of a group differ only in their seeds. The label is the name of the group, with
    the settings that differ from the defaults in brackets, such as "ours (bf16)". Returns None if
    the group of the model is unknown.
    """
    group = training_of(row).get("group")
    if not group:
        return None
    return labelled(group, model_identity(row).variants)


def data_identity(row: ResultRow) -> dict[str, str]:
    """Return the fields that identify the version of the data set that a result was measured on.

    Returns:
        A dictionary of texts, which are empty if the result does not record them:
        - "repository": the repository on the Hugging Face hub
        - "revision": the commit of the repository
        - "content": the SHA-256 of the images and labels
    """
    provenance = row.provenance
    return {
        "repository": provenance.get("repository", ""),
        "revision": provenance.get("revision", ""),
        "content": provenance["hashes"].get(CONTENT, ""),
    }
