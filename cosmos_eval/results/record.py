"""The record of a result; `schema.json` in this package is `json_schema(ResultRow)`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import NotRequired, TypedDict

from cosmos_eval.tasks import metric_of
from cosmos_eval.types import Attention, MapKind, Precision, UsageError, Weights

SCHEMA_VERSION = 2
"""Of result files; `cosmos_eval.results.store` lists what changed between versions."""

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Nothing is converted, unknown fields and NaN are refused."""

_SHOWN = 60  # characters of a refused value

Name = Annotated[str, Field(min_length=1)]
TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Count = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SamplesFile = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+\.npz$")]
Level = Annotated[float, Field(gt=0, lt=1)]


def metrics_type(most: float | None = None) -> Any:
    """Return the type of metrics by name; those of known tasks decide which values are valid. The
    task is a field before the metrics, or one of the setting there; `most` bounds all metrics."""

    def check(metrics: dict[str, float], info: pydantic.ValidationInfo) -> dict[str, float]:
        task = info.data.get("task") or info.data.get("setting", {}).get("task")
        for name, value in metrics.items():
            if fault := metric_of(str(task), name).fault(value):
                raise out_of_place(name, fault)
        return metrics

    value = Annotated[float, Field(ge=None if most is None else -most, le=most)]
    description = (
        "Fractions are in [0, 1], ranks start at 1, ratios at 0, numbers are any; the task says "
        "which."
    )
    field = Field(min_length=1, description=description)
    return as_type(Annotated[dict[str, value], field, AfterValidator(check)])


def out_of_place(name: str, message: str) -> PydanticCustomError:
    """Return the error of a field that the validator of the object around it refuses."""
    return PydanticCustomError("refused", "{message}", {"message": message, "name": name})


def as_type(kind: Any) -> pydantic.GetPydanticSchema:
    """Return an annotation that validates a value as `kind`, which type checkers do not see."""
    return pydantic.GetPydanticSchema(lambda _, handler: handler(kind))


def _doc(description: str, **limits: Any) -> Any:
    return Field(description=description, **limits)


_CODE = _doc("Of the user's Python file, with its arguments, if any.")
_HASH_UNLESS_RANDOM: Any = {
    "if": {"properties": {"random": {"const": False}}},
    "then": {"properties": {"weights_sha256": {"type": "string"}}},
}


_Gflops = Annotated[float, _doc("Multiply-accumulates count 2; 10^9 operations.", gt=0)]
_TOWER = _doc("Of them, those that encoding an image, or a text, reads.")
_SEEN = _doc("Pairs of the training, with repetitions.")


@with_config(STRICT)
class FactsRecord(TypedDict):
    """What a model is; null where that is unknown. No figure depends on it."""

    parameters: Count | None
    image_parameters: Annotated[Count | None, _TOWER]
    text_parameters: Annotated[Count | None, _TOWER]
    image_gflops: Annotated[_Gflops | None, _doc("Per image of image_size.")]
    text_gflops: Annotated[_Gflops | None, _doc("Per text that fills the context.")]
    image_size: Annotated[list[Count] | None, _doc("H, W.", min_length=2, max_length=2)]
    patch_size: Count | None
    embedding_size: Count | None
    context_length: Count | None
    training_data: Name | None
    samples_seen: Annotated[Count | None, _SEEN]


_Seed = Annotated[int, _doc("That of the training, not of the test.", ge=0)]
_Flops = Annotated[float, _doc("3 student's forwards and 1 teacher's per step, all views.", gt=0)]


@with_config(STRICT)
class TrainingRecord(TypedDict):
    """Which training a model is of; null where unknown. Those of a group differ in seeds alone."""

    group: Name
    seed: _Seed | None
    recipe_sha256: Annotated[Sha256 | None, _doc("Of the options that decide the weights.")]
    data_sha256: Annotated[Sha256 | None, _doc("Of the names and sizes of the shards.")]
    samples: Annotated[Count | None, _SEEN]
    flops: _Flops | None


@with_config(ConfigDict(**STRICT, json_schema_extra=_HASH_UNLESS_RANDOM))
class ModelRecord(TypedDict):
    """A model: its specification, and hashes of its weights and of the user's code."""

    name: NotRequired[Annotated[Name, _doc("What tables and files call it in place of `spec`.")]]
    spec: Name
    architecture: Name
    weights: Weights | None
    weights_sha256: Sha256 | None
    random: bool
    code_sha256: NotRequired[Annotated[Sha256, _CODE]]
    revision: NotRequired[Annotated[Name, _doc("Of a repository named by hf:, its commit.")]]
    facts: NotRequired[FactsRecord]
    training: NotRequired[TrainingRecord]


def _with_weights(model: ModelRecord) -> ModelRecord:
    if model["weights_sha256"] is None and not model["random"]:
        raise out_of_place("weights_sha256", "only random weights have no hash")
    return model


@with_config(STRICT)
class IntervalRecord(TypedDict):
    """A confidence interval, in the metric's unit."""

    low: float
    high: float
    method: Name
    level: Level


@with_config(STRICT)
class ConfusionPair(TypedDict):
    """How many images of class `true`, as `per_class` calls it, were given class `predicted`."""

    true: str
    predicted: str
    images: Count


@with_config(STRICT)
class ProbeRecord(TypedDict):
    """How probes of frozen features were fitted."""

    solver: Name
    C: Annotated[float, _doc("Of the linear probe, as scikit-learn defines it.", gt=0)]
    training_images: Count
    validation_images: Annotated[Count, _doc("Of the training images, those that chose C.")]
    draw_seeds: Annotated[list[int], _doc("Of few shots, one per draw.")]
    fewshot_C: Annotated[dict[str, list[float]], _doc("Chosen by each draw, by shots.")]


_PART = r"^[0-9]+ of [0-9]+ [a-z].*$"
_PARTIAL = _doc("Samples found and known of an incomplete set.", pattern=_PART)
_ATTENTION = _doc("Form of the image tower's last block; null except for segmentation.")
_PROTOCOL_ATTENTION = _doc("The form that the protocol is made for; csa where it is missing.")
_PAIRS_SCORED = _doc("Candidates per query of which an image and a text were scored together.")
_PROTOCOL_MAP = _doc("The kind that the protocol requires; null: each model's own.")
_TUNED = _doc("Content of the file of settings that `cosmos-eval tune` has chosen for a model.")
_MEMORY = _doc("Largest resident memory of the process up to this result.")
_HASHES = _doc("SHA-256 of what defines the number: names, templates, sample list, content.")
_Rate = Annotated[float, Field(ge=0)]
_RATE = _doc("Images encoded, not read from the cache, per second of that phase; null: none.")
_NOTES = _doc("What a reader of the numbers must know, such as captions cut.")
OWN_HASH = _doc("SHA-256 of this document without this line, sorted and compact.")


@with_config(STRICT)
class AuxiliaryRecord(TypedDict):
    """The encoder that guides attention `proxy`: its weights and inputs, the method's constants."""

    spec: Name
    architecture: Name
    weights_sha256: Annotated[Sha256 | None, _doc("null: a user's function without weights.")]
    code_sha256: NotRequired[Annotated[Sha256, _CODE]]
    revision: NotRequired[Annotated[Name, _doc("Of a repository named by hf:, its commit.")]]
    patch_size: Count
    image_mean: Annotated[list[float], _doc("RGB on the 0-1 scale.", min_length=3, max_length=3)]
    image_std: Annotated[list[float], Field(min_length=3, max_length=3)]
    beta: float
    gamma: float


@with_config(STRICT)
class Provenance(TypedDict):
    """The code, packages, machine, settings and data that gave a number."""

    version: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")] | None
    dirty: bool | None
    packages: dict[str, str | None]
    python: str
    platform: str
    command: str
    utc: Annotated[str, pydantic.WithJsonSchema({"type": "string", "format": "date-time"})]
    device: str
    precision: Precision
    seed: int
    limit: Annotated[Count | None, _doc("Only the first N samples were measured; null: all.")]
    partial: NotRequired[Annotated[str, _PARTIAL]]
    attention: Annotated[Attention | None, _ATTENTION]
    protocol_attention: NotRequired[Annotated[Attention | None, _PROTOCOL_ATTENTION]]
    auxiliary: NotRequired[AuxiliaryRecord]
    map: NotRequired[Annotated[MapKind, _doc("Of a localisation: the kind of map measured.")]]
    protocol_map: NotRequired[Annotated[MapKind | None, _PROTOCOL_MAP]]
    pairs: NotRequired[Annotated[Count | Literal["all"], _PAIRS_SCORED]]
    pair_score: NotRequired[Annotated[Name, _doc("How the model scores an image with a text.")]]
    repository: NotRequired[Annotated[Name, _doc("Of a data set on the Hugging Face hub.")]]
    revision: NotRequired[Annotated[Name, _doc("The commit of the repository that was read.")]]
    probe: NotRequired[ProbeRecord]
    tuned: NotRequired[Annotated[dict[str, Any], _TUNED]]
    batch_size: Count
    seconds: Annotated[dict[str, Annotated[float, Field(ge=0)]], _doc("Wall time per phase.")]
    images_per_second: NotRequired[Annotated[_Rate | None, _RATE]]
    peak_memory_bytes: Annotated[int | None, _MEMORY]
    hashes: Annotated[dict[str, str], _HASHES]
    notes: Annotated[list[str], _NOTES]
    samples_sha256: Sha256
    record_sha256: NotRequired[Annotated[Sha256, OWN_HASH]]


_MODEL = as_type(Annotated[ModelRecord, AfterValidator(_with_weights)])
_CLASSES = as_type(dict[str, dict[str, int | float | None]])
_PAIRS = as_type(list[ConfusionPair])
_PER_CLASS = _doc("Class name -> figures; null where a class has no sample.")
_MISTAKES = _doc("The most frequent mistakes of a classification, most frequent first.")
_TITLE = "One (model, data set, protocol) result"
_HEADER: Any = {"$id": f"urn:cosmos-eval:result:{SCHEMA_VERSION}"}


@with_config(ConfigDict(**STRICT, title=_TITLE, json_schema_extra=_HEADER))
@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """The result of one model on one data set under one protocol."""

    schema_version: Annotated[int, as_type(Literal[2])]
    model: Annotated[Mapping[str, Any], _MODEL]
    task: Annotated[TaskName, _doc("As `cosmos-eval list tasks` names it; packages may add some.")]
    dataset: Name
    protocol: Annotated[Name, _doc("Family of comparable numbers, which are ranked together.")]
    metrics: Annotated[Mapping[str, float], metrics_type()]
    intervals: Annotated[Mapping[str, Mapping[str, Any]], as_type(dict[str, IntervalRecord])]
    per_class: Annotated[Mapping[str, Mapping[str, float | None]], _CLASSES, _PER_CLASS]
    n_samples: Count
    provenance: Annotated[Mapping[str, Any], as_type(Provenance)]
    samples: Annotated[SamplesFile, _doc("The file beside this one that the metrics follow from.")]
    source: Literal["measured"]
    confusion_pairs: Annotated[Sequence[Mapping[str, Any]], _PAIRS, _MISTAKES] = ()


Content = TypeVar("Content")


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what reads and checks JSON of one kind; building it takes some milliseconds."""
    return TypeAdapter(kind)


def validate(kind: Callable[..., Content], content: str | bytes, where: str) -> Content:
    """Return JSON text as an object of a kind. Raises UsageError with the first wrong field."""
    try:
        found: Content = adapter(kind).validate_json(content)
    except pydantic.ValidationError as error:
        raise UsageError(f"{where}: {_first(error)}") from error
    return found


def _first(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    place = [str(part) for part in first["loc"] if part not in ("int", "float")]
    if "name" in context:
        place.append(context["name"])
    value = first["input"]
    clear = first["type"] in ("refused", "json_invalid", "extra_forbidden", "missing")
    shown = f", not {value!r}"[:_SHOWN] if not clear and not isinstance(value, dict | list) else ""
    return f"{'.'.join(('$', *place))}: {first['msg']}{shown}"


class _Schema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(kind: Callable[..., Any]) -> str:
    """Return the text of the JSON Schema of a kind of file."""
    schema = adapter(kind).json_schema(schema_generator=_Schema)
    document = {"$schema": GenerateJsonSchema.schema_dialect, **schema}
    return json.dumps(document, indent=2) + "\n"
