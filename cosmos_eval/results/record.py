"""The record of a result; `schema.json` in this package is `json_schema(ResultRow)`."""

import json
import math
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
from cosmos_eval.tasks.arrays import MOST_ENTRIES
from cosmos_eval.types import Attention, MapKind, Precision, UsageError, Weights

SCHEMA_VERSION = 2
"""The version of result files; `cosmos_eval.results.store` lists what changed between versions."""

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Values of other types are not converted. Unknown fields, NaN and infinity are refused."""

_ROUNDING = 1e-9  # relative for values above 1, absolute for those below

_VALUE_CHARACTERS = 60  # of a refused value in a message

Name = Annotated[str, Field(min_length=1)]
TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Count = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SamplesFile = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+\.npz$")]
Level = Annotated[float, Field(gt=0, lt=1)]


def metrics_type(most: float | None = None) -> Any:
    """Return the type of a field that holds metrics by name, for records that pydantic checks.

    The task of the record decides which values a metric can have. The task must be a field of the
    record before the metrics, or a field of its `setting`.

    Args:
        most: The greatest absolute value of all metrics; None for no limit.
    """
    least = None if most is None else -most
    value_type = Annotated[float, Field(ge=least, le=most)]
    description = (
        "Fractions are in [0, 1], ranks start at 1, ratios at 0, other numbers have no bounds. The "
        "task decides which of these a metric is."
    )
    field = Field(min_length=1, description=description)
    return validated_as(
        Annotated[dict[str, value_type], field, AfterValidator(_require_possible_metrics)]
    )


def _require_possible_metrics(
    metrics: dict[str, float], info: pydantic.ValidationInfo
) -> dict[str, float]:
    """Return the metrics of a record unchanged, as a validator of pydantic has to.

    Raises an error if a value is impossible for its metric, such as an accuracy of 1.5.

    Args:
        metrics: The values by name.
        info: The context of the validation. Its `data` has the fields of the record before the
            metrics, one of which is the task.
    """
    task = info.data.get("task") or info.data.get("setting", {}).get("task")
    for name, value in metrics.items():
        fault = metric_of(str(task), name).fault(value)
        if fault:
            raise field_error(name, fault)
    return metrics


def field_error(name: str, message: str) -> PydanticCustomError:
    """Return the error that a validator of a whole record raises for one of its fields.

    Args:
        name: The name of the field.
        message: The problem of the field.
    """
    return PydanticCustomError("refused", "{message}", {"message": message, "name": name})


def validated_as(kind: Any) -> pydantic.GetPydanticSchema:
    """Return an annotation by which pydantic validates a field as the type `kind`.

    The field then may have another type for type checkers, such as Mapping in place of dict.
    """
    return pydantic.GetPydanticSchema(lambda _, handler: handler(kind))


_CODE = Field(description="SHA-256 of the user's Python file with its arguments.")
_REVISION = Field(description="The commit of a repository that hf: names.")
_STEP = Field(description="The step of the training in which the model was measured.", ge=0)
_LOADED = Field(description="Hash of the tensors and configuration, in any files.")
_PREPROCESSING = Field(
    description="Hash of the preprocessing of images, unless it is usual for the kind of model."
)
_DESCRIPTION = Field(description="Hash of the files beside the weights that describe the model.")
_HASH_UNLESS_RANDOM: Any = {
    "if": {"properties": {"random": {"const": False}}},
    "then": {"properties": {"weights_sha256": {"type": "string"}}},
}


_Gflops = Annotated[
    float, Field(description="Multiply-accumulates count 2; 10^9 operations.", gt=0)
]
_TOWER = Field(description="The parameters that encoding an image, or a text, reads.")
_SEEN = Field(description="Pairs that the training has seen, with repetitions.")


@with_config(STRICT)
class FactsRecord(TypedDict):
    """Facts of a model; null if unknown. No figure depends on them."""

    parameters: Count | None
    image_parameters: Annotated[Count | None, _TOWER]
    text_parameters: Annotated[Count | None, _TOWER]
    image_gflops: Annotated[_Gflops | None, Field(description="Per image of image_size.")]
    text_gflops: Annotated[_Gflops | None, Field(description="Per text that fills the context.")]
    image_size: Annotated[
        list[Count] | None, Field(description="H, W.", min_length=2, max_length=2)
    ]
    patch_size: Count | None
    embedding_size: Count | None
    context_length: Count | None
    training_data: Name | None
    samples_seen: Annotated[Count | None, _SEEN]


_Seed = Annotated[int, Field(description="The seed of the training, not of the test.", ge=0)]
_FLOPS = "Per step 3 forward passes of the student and 1 of the teacher, over all views."
_Flops = Annotated[float, Field(description=_FLOPS, gt=0)]


@with_config(STRICT)
class TrainingRecord(TypedDict):
    """The training of a model; null if unknown. The trainings of a group differ only in seeds."""

    group: Name
    seed: _Seed | None
    recipe_sha256: Annotated[
        Sha256 | None, Field(description="Hash of the options that decide the weights.")
    ]
    data_sha256: Annotated[
        Sha256 | None, Field(description="Hash of the names and sizes of the shards.")
    ]
    samples: Annotated[Count | None, _SEEN]
    flops: _Flops | None


@with_config(ConfigDict(**STRICT, json_schema_extra=_HASH_UNLESS_RANDOM))
class ModelRecord(TypedDict):
    """A model: its specification, and hashes of its weights and of the user's code."""

    name: NotRequired[
        Annotated[Name, Field(description="The name in tables and file names, in place of `spec`.")]
    ]
    spec: Name
    architecture: Name
    weights: Weights | None
    weights_sha256: Sha256 | None
    random: bool
    code_sha256: NotRequired[Annotated[Sha256, _CODE]]
    revision: NotRequired[Annotated[Name, _REVISION]]
    loaded_sha256: NotRequired[Annotated[Sha256, _LOADED]]
    preprocessing_sha256: NotRequired[Annotated[Sha256, _PREPROCESSING]]
    description_sha256: NotRequired[Annotated[Sha256, _DESCRIPTION]]
    facts: NotRequired[FactsRecord]
    training: NotRequired[TrainingRecord]
    step: NotRequired[Annotated[int, _STEP]]


def _require_weights_hash(model: ModelRecord) -> ModelRecord:
    """Return the record of a model unchanged, as a validator of pydantic has to.

    Raises an error if the record has no hash of the weights though they are not random.
    """
    if model["weights_sha256"] is None and not model["random"]:
        raise field_error("weights_sha256", "only random weights have no hash")
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
    """The number of images of class `true` whose prediction is class `predicted`. The names are
    the same as in `per_class`."""

    true: str
    predicted: str
    images: Count


@with_config(STRICT)
class ProbeRecord(TypedDict):
    """How probes of frozen features were fitted."""

    solver: Name
    C: Annotated[
        float, Field(description="C of the linear probe, as scikit-learn defines it.", gt=0)
    ]
    training_images: Count
    validation_images: Annotated[
        Count, Field(description="The training images that C was chosen by.")
    ]
    draw_seeds: Annotated[list[int], Field(description="The seeds of few-shot draws.")]
    fewshot_C: Annotated[
        dict[str, list[float]], Field(description="C of each draw, by number of shots.")
    ]


_ByShots = dict[str, list[float]]


@with_config(STRICT)
class CoopRecord(TypedDict):
    """How few-shot classifiers were fitted by CoOp's rules. Lists have a value for each draw."""

    draw_seeds: Annotated[list[int], Field(description="The seeds of draws.")]
    drawn_training_images: Annotated[
        Count, Field(description="The different training images of all draws.")
    ]
    validation_images: Annotated[
        Annotated[int, Field(ge=0)], Field(description="The images that alpha and beta fit best.")
    ]
    linear_probe_C: Annotated[_ByShots, Field(description="C, by number of shots.")]
    linear_probe_base_C: Annotated[_ByShots, Field(description="C among base classes.")]
    cache_alpha: Annotated[_ByShots, Field(description="alpha of the cache, by number of shots.")]
    cache_beta: Annotated[_ByShots, Field(description="beta of the cache, by number of shots.")]
    cache_base_alpha: Annotated[_ByShots, Field(description="alpha among base classes.")]
    cache_base_beta: Annotated[_ByShots, Field(description="beta among base classes.")]


@with_config(STRICT)
class DenseProbeRecord(TypedDict):
    """How a linear probe of patch features was fitted."""

    solver: Name
    strength: NotRequired[
        Annotated[float, Field(description="Chosen strength of ridge regression.", gt=0)]
    ]
    training_images: Count
    validation_images: NotRequired[
        Annotated[Count, Field(description="The training images that chose the strength.")]
    ]


_Size = Annotated[int, Field(ge=1, le=MOST_ENTRIES)]


@with_config(STRICT)
class StoppedRecord(TypedDict):
    """A run that stopped before the last sample: A is its model, B is the baseline."""

    answer: Literal["A better", "B better", "same"]
    metric: Annotated[Name, Field(description="The metric that decided.")]
    difference: Annotated[float, Field(description="A - B of the samples that were measured.")]
    against: Annotated[Name, Field(description="The label of the baseline's model.")]
    against_sha256: Annotated[Sha256, Field(description="record_sha256 or hash of its samples.")]
    alpha: Annotated[
        Level, Field(description="Probability of a wrong answer, corrected for the data sets.")
    ]
    margin: Annotated[
        Annotated[float, Field(gt=0)] | None, Field(description="Models closer than this are same.")
    ]
    seed: Annotated[int, Field(description="The seed of the order of the samples.", ge=0)]
    samples: Annotated[_Size, Field(description="How many samples the whole data set has.")]
    units: Annotated[_Size, Field(description="How many independent units these samples are.")]
    most: Annotated[_Size, Field(description="The samples of the largest unit.")]
    method: Literal["bounded", "asymptotic"]
    start: Annotated[Count, Field(description="Samples before the first look, if asymptotic.")]
    looks: Annotated[
        list[tuple[Count, float, float]],
        Field(
            description="Samples, and the ends of the interval of A - B, of each look.",
            min_length=1,
        ),
    ]


_COUNT = r"^[0-9]+ of [0-9]+ [a-z].*$"
_PARTIAL = Field(
    description="How many samples of an incomplete set were there: `4 of 9 images`.", pattern=_COUNT
)
_ATTENTION = Field(
    description="The form of the image tower's last block; null except for segmentation."
)
_PROTOCOL_ATTENTION = Field(
    description="The form that the protocol is made for; csa if it is missing."
)
_PAIRS_SCORED = Field(
    description="The number of candidates per query that were scored as pairs with it."
)
_WORDING = Field(
    description="The name and the changes of the wording that was measured in place of the "
    "protocol's own."
)
_PROTOCOL_MAP = Field(
    description="The kind that the protocol requires; null if it is each model's own."
)
_TUNED = Field(
    description="The content of the file of settings that `cosmos-eval tune` chose for a model."
)
_MEMORY = Field(description="The largest resident memory of the process up to this result.")
_PROTOCOL = Field(description="Hash of the settings of the protocol that are not its defaults.")
_HASHES = Field(
    description="SHA-256 of everything that defines the number: names, templates, samples, content."
)
_Rate = Annotated[float, Field(ge=0)]
_RATE = Field(
    description=(
        "Images encoded per second, without those read from the cache; null if there are none."
    )
)
_NOTES = Field(description="Notes for readers of the numbers, such as the share of captions cut.")
OWN_HASH = Field(
    description="SHA-256 of this document without this line, with sorted keys and no spaces."
)


@with_config(STRICT)
class AuxiliaryRecord(TypedDict):
    """The encoder that guides attention `proxy`: its weights and inputs, the method's constants."""

    spec: Name
    architecture: Name
    weights_sha256: Annotated[
        Sha256 | None, Field(description="null for a user's function without weights.")
    ]
    code_sha256: NotRequired[Annotated[Sha256, _CODE]]
    revision: NotRequired[Annotated[Name, _REVISION]]
    patch_size: Count
    image_mean: Annotated[
        list[float], Field(description="RGB on the 0-1 scale.", min_length=3, max_length=3)
    ]
    image_std: Annotated[list[float], Field(min_length=3, max_length=3)]
    beta: float
    gamma: float


@with_config(STRICT)
class Provenance(TypedDict):
    """The code, packages, machine, settings and data behind a number."""

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
    limit: Annotated[
        Count | None, Field(description="Only the first N samples were measured; null for all.")
    ]
    partial: NotRequired[Annotated[str, _PARTIAL]]
    stopped: NotRequired[StoppedRecord]
    attention: Annotated[Attention | None, _ATTENTION]
    protocol_attention: NotRequired[Annotated[Attention | None, _PROTOCOL_ATTENTION]]
    auxiliary: NotRequired[AuxiliaryRecord]
    map: NotRequired[
        Annotated[MapKind, Field(description="The kind of map that a localisation measured.")]
    ]
    protocol_map: NotRequired[Annotated[MapKind | None, _PROTOCOL_MAP]]
    pairs: NotRequired[Annotated[Count | Literal["all"], _PAIRS_SCORED]]
    pair_score: NotRequired[
        Annotated[Name, Field(description="How the model scores an image with a text.")]
    ]
    composition: NotRequired[
        Annotated[Name, Field(description="How an image and a text became one query.")]
    ]
    wording: NotRequired[Annotated[dict[str, Any], _WORDING]]
    repository: NotRequired[
        Annotated[Name, Field(description="The repository of a data set on the Hugging Face hub.")]
    ]
    revision: NotRequired[
        Annotated[Name, Field(description="The commit of the repository that was read.")]
    ]
    probe: NotRequired[ProbeRecord]
    coop: NotRequired[CoopRecord]
    dense_probe: NotRequired[DenseProbeRecord]
    tuned: NotRequired[Annotated[dict[str, Any], _TUNED]]
    batch_size: Count
    seconds: Annotated[
        dict[str, Annotated[float, Field(ge=0)]], Field(description="Wall time per phase.")
    ]
    images_per_second: NotRequired[Annotated[_Rate | None, _RATE]]
    peak_memory_bytes: Annotated[int | None, _MEMORY]
    protocol_sha256: NotRequired[Annotated[Sha256, _PROTOCOL]]
    hashes: Annotated[dict[str, str], _HASHES]
    notes: Annotated[list[str], _NOTES]
    samples_sha256: Sha256
    record_sha256: NotRequired[Annotated[Sha256, OWN_HASH]]


_MODEL = validated_as(Annotated[ModelRecord, AfterValidator(_require_weights_hash)])
_CLASSES = validated_as(dict[str, dict[str, int | float | None]])
_PAIRS = validated_as(list[ConfusionPair])
_PER_CLASS = Field(description="Figures by class name; null if a class has no sample.")
_MISTAKES = Field(
    description="The most frequent mistakes of a classification, most frequent first."
)
_TITLE = "One (model, data set, protocol) result"
_HEADER: Any = {"$id": f"urn:cosmos-eval:result:{SCHEMA_VERSION}"}


@with_config(ConfigDict(**STRICT, title=_TITLE, json_schema_extra=_HEADER))
@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """The result of one model on one data set under one protocol."""

    schema_version: Annotated[int, validated_as(Literal[2])]
    model: Annotated[Mapping[str, Any], _MODEL]
    task: Annotated[
        TaskName, Field(description="A name of `cosmos-eval list tasks`; packages may add tasks.")
    ]
    dataset: Name
    protocol: Annotated[Name, Field(description="The settings by which numbers are comparable.")]
    metrics: Annotated[Mapping[str, float], metrics_type()]
    intervals: Annotated[Mapping[str, Mapping[str, Any]], validated_as(dict[str, IntervalRecord])]
    per_class: Annotated[Mapping[str, Mapping[str, float | None]], _CLASSES, _PER_CLASS]
    n_samples: Count
    provenance: Annotated[Mapping[str, Any], validated_as(Provenance)]
    samples: Annotated[
        SamplesFile,
        Field(description="The file beside this one with the samples behind the metrics."),
    ]
    source: Literal["measured"]
    confusion_pairs: Annotated[Sequence[Mapping[str, Any]], _PAIRS, _MISTAKES] = ()

    def _repr_html_(self) -> str:
        """Return the table that notebooks show: all metrics with their intervals, and the notes."""
        from cosmos_eval.results.identity import model_label
        from cosmos_eval.results.table import Cell, Head, Table, to_html
        from cosmos_eval.results.text import interval_ends, metric_text

        rows = []
        for name, value in self.metrics.items():
            metric = metric_of(self.task, name)
            ends = interval_ends(metric, value, self.intervals.get(name))
            rows.append((Cell(name), Cell(metric_text(metric, value), ends)))
        measured = f"{model_label(self)} on {self.dataset} ({self.protocol})"
        table = Table(
            title=f"{measured}, {self.n_samples} samples",
            heads=(Head("metric"), Head("value")),
            rows=tuple(rows),
            notes=tuple(self.provenance["notes"]),
        )
        return to_html([table])


Content = TypeVar("Content")


def is_same_figure(stored: Any, computed: Any) -> bool:
    """Return whether a stored figure is the one that the samples give, except for rounding.

    The last digits depend on the processor: BLAS adds in the order that is best for it, and NumPy
    has an `exp` and a `log` for each set of vector instructions.

    Args:
        stored: The stored figure, a number or a record of numbers and texts.
        computed: The figure that was computed from the samples, possibly on another machine. NaN
            equals nothing.
    """
    if isinstance(stored, Mapping) and isinstance(computed, Mapping):
        if stored.keys() != computed.keys():
            return False
        return all(is_same_figure(value, computed[name]) for name, value in stored.items())
    if isinstance(stored, float | int) and isinstance(computed, float | int):
        return math.isclose(stored, computed, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(stored == computed)


@cache
def type_adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the object by which pydantic reads and checks JSON of a type.

    It is cached, since building it takes milliseconds.
    """
    return TypeAdapter(kind)


def validate(kind: Callable[..., Content], content: str | bytes, where: str) -> Content:
    """Read JSON as an object of a type, and check it.

    Args:
        kind: The type, such as `ResultRow`.
        content: The JSON.
        where: The file that the JSON comes from, for the message.

    Raises:
        UsageError: If the JSON is not an object of the type. The message has the first wrong field.
    """
    try:
        record: Content = type_adapter(kind).validate_json(content)
    except pydantic.ValidationError as error:
        raise UsageError(f"{where}: {_first_fault(error)}") from error
    return record


def _first_fault(error: pydantic.ValidationError) -> str:
    """Return the first wrong field and what is wrong with it.

    The value is added if the message does not make it clear.

    Example:
        "$.n_samples: Input should be greater than or equal to 1, not 0"
    """
    first_error = error.errors(include_url=False)[0]

    # Write the path to the field, such as "$.provenance.seed". pydantic adds the names of types to
    # the path of a field that may have several types.
    path = ["$"]
    for key in first_error["loc"]:
        if key not in ("int", "float"):
            path.append(str(key))
    context = first_error.get("ctx", {})
    if "name" in context:
        path.append(context["name"])  # from `field_error`
    fault = f"{'.'.join(path)}: {first_error['msg']}"

    # Add the value if the message needs it, unless it is long.
    value = first_error["input"]
    is_clear = first_error["type"] in ("refused", "json_invalid", "extra_forbidden", "missing")
    if is_clear or isinstance(value, dict | list):
        return fault
    value_text = f", not {value!r}"
    return f"{fault}{value_text[:_VALUE_CHARACTERS]}"


class _Schema(GenerateJsonSchema):
    """A generator of JSON Schemas without titles of fields, which would repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return that no field has a title."""
        return False


def json_schema(kind: Callable[..., Any]) -> str:
    """Return the JSON Schema of a type, such as `ResultRow`, as the text of a file."""
    schema = type_adapter(kind).json_schema(schema_generator=_Schema)
    document = {"$schema": GenerateJsonSchema.schema_dialect, **schema}
    return json.dumps(document, indent=2) + "\n"
