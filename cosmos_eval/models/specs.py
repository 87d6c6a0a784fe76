"""Model specifications as users type them.

Names are checked without loading a model: torch is not imported here.
"""

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from cosmos_core.utils.files import file_sha256, json_sha256
from cosmos_core.utils.text import parse_json
from cosmos_eval.types import ModelSpec, UsageError, Weights, nearest

# The released checkpoints and their architectures. Their files are cosmos_<name>.pt of the Hugging
# Face repository sankim2/cosmos (README of github.com/ExplainableML/cosmos: ViT-B/16 and ViT-B/32,
# with GELU).
RELEASED: dict[str, str] = {
    f"vitb{patch}_{data}": f"ViT-B-{patch}"
    for patch in (16, 32)
    for data in ("cc3m", "cc12m", "yfcc15m", "merged30m", "pixelprose")
}

TWO_SETS = ("bundled", "cosmos")
"""The kinds of models that have two sets of weights, the teacher's and the student's."""

HUB = "hf-hub:"  # as OpenCLIP marks a repository of the Hugging Face hub
# OpenCLIP's names of a model's description and of its weights, the preferred one first. They are
# repeated here because importing them would import torch.
DESCRIPTION = "open_clip_config.json"
DESCRIBED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
# The files beside the weights that describe a model, by its kind.
_DESCRIPTIONS: Mapping[str, Sequence[str]] = {
    "openclip": (DESCRIPTION,),
    "hf": (
        "config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
}

_FORMS = (
    "cosmos:NAME|PATH, openclip:ARCH/TAG|PATH, openclip:FOLDER, openclip:hf-hub:ORG/NAME, "
    "hf:FOLDER, hf:ORG/NAME[@REVISION] or python:FILE.py[?NAME=VALUE&...]"
)
# Values of arguments that are not texts, in lower case.
_VALUES_OF_WORDS = {"true": True, "false": False, "none": None, "null": None}


# The files of the models that are part of the package, by the models' names: "scenes-clip" is the
# file bundled/scenes-clip.safetensors.
_BUNDLED_FOLDER = Path(str(importlib.resources.files("cosmos_core"))) / "bundled"
_BUNDLED_FILES = {path.stem: path for path in _BUNDLED_FOLDER.glob("*.safetensors")}
_MODELS_OF_DEFAULT_RUN = ("scenes-cosmos", "scenes-clip")
BUNDLED: tuple[str, ...] = (
    *_MODELS_OF_DEFAULT_RUN,
    *sorted(set(_BUNDLED_FILES) - set(_MODELS_OF_DEFAULT_RUN)),
)


def parse_model_spec(text: str, arch: str | None = None, weights: Weights = "teacher") -> ModelSpec:
    """Return the specification of a model from the name that a user types. Nothing is loaded.

    OpenCLIP's architectures and tags are only checked when a model is loaded.

    Args:
        text: The name of the model, such as "scenes-clip" or "openclip:ViT-B-32/openai".
        arch: The architecture of a `cosmos:PATH`. It is ignored for all other models.
        weights: Chooses between the teacher and the student of a COSMOS model.

    Raises:
        UsageError: If the name is unknown. The message has the nearest known names.

    Example:
        "openclip:ViT-B-32/openai" has the kind "openclip", the architecture "ViT-B-32" and the name
        "openai".
    """
    if text != text.encode(errors="ignore").decode():
        raise UsageError(f"model {text!r}: its name is not UTF-8, as results need; rename the file")
    if text in BUNDLED:
        return ModelSpec(text=text, kind="bundled", name=text, weights=weights)

    kind, colon, name = text.partition(":")
    if colon and kind == "cosmos":
        return _parse_cosmos_name(text, name, arch, weights)
    if colon and kind == "openclip":
        return _parse_openclip_name(text, name)
    if colon and kind == "hf":
        return _parse_hf_name(text, name)
    if colon and kind == "python":
        return _parse_python_name(text, name)

    from cosmos_eval.models.suggestions import nearest_models, suggest_model

    suggestion = suggest_model(text)
    if suggestion is not None:
        raise UsageError(f"unknown model '{text}'; did you mean {suggestion}?")
    nearest_specs = ", ".join(nearest_models(text))
    raise UsageError(f"unknown model '{text}'; nearest: {nearest_specs}; forms: {_FORMS}")


def _parse_cosmos_name(text: str, name: str, arch: str | None, weights: Weights) -> ModelSpec:
    """Return the specification of a COSMOS model: a released checkpoint, or a file.

    Args:
        text: The text that the user types, such as "cosmos:vitb16_cc3m" or
            "cosmos:last.safetensors".
        name: The text after the colon.
        arch: The architecture of a file. Released checkpoints have a known one.
        weights: "teacher" or "student".

    Raises:
        UsageError: If neither a released checkpoint nor a file has this name.
    """
    if name not in RELEASED and not Path(name).is_file():
        nearest_names = nearest(name, [*RELEASED])
        raise UsageError(f"'{text}': no such file and no released model; nearest: {nearest_names}")
    arch = RELEASED.get(name, arch)
    return ModelSpec(text=text, kind="cosmos", name=name, arch=arch, weights=weights)


def _parse_openclip_name(text: str, name: str) -> ModelSpec:
    """Return the specification of a model of OpenCLIP.

    Args:
        text: The text that the user types: openclip:ARCH/TAG, openclip:ARCH/PATH, openclip:FOLDER
            or openclip:hf-hub:ORG/NAME.
        name: The text after the first colon.

    Raises:
        UsageError: If the text has any other form.
    """
    # A model that describes itself, in a folder or on the hub, needs no ARCH.
    if name.startswith(HUB) or (Path(name) / DESCRIPTION).is_file():
        return ModelSpec(text=text, kind="openclip", name=name)
    arch, _, source = name.partition("/")  # names of architectures do not contain a slash
    if not arch or not source:
        from cosmos_eval.models.suggestions import suggest_architecture

        suggestion = suggest_architecture(name)
        if suggestion is not None:
            raise UsageError(f"'{text}' names no weights; did you mean {suggestion}?")
        raise UsageError(
            f"'{text}': use openclip:ARCH/TAG or openclip:ARCH/PATH, as in "
            f"openclip:ViT-B-32/openai; a FOLDER needs an {DESCRIPTION}"
        )
    return ModelSpec(text=text, kind="openclip", name=source, arch=arch)


def _parse_hf_name(text: str, name: str) -> ModelSpec:
    """Return the specification of a model of transformers.

    Args:
        text: The text that the user types: hf:FOLDER, hf:ORG/NAME or hf:ORG/NAME@REVISION.
        name: The text after the colon.

    Raises:
        UsageError: If the text has any other form.
    """
    is_folder = bool(name) and Path(name).is_dir()
    is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+(@\S+)?", name) is not None
    if not is_folder and not is_repository:
        raise UsageError(f"'{text}': no such folder; use hf:FOLDER or hf:ORG/NAME[@REVISION]")
    return ModelSpec(text=text, kind="hf", name=name)


def _parse_python_name(text: str, name: str) -> ModelSpec:
    """Return the specification of a model that a user's Python file makes.

    Args:
        text: The text that the user types: python:FILE.py, or python:FILE.py?NAME=VALUE&NAME=VALUE
            with arguments for the function `load` of the file.
        name: The text after the colon.

    Raises:
        UsageError: If the file does not exist, and for wrong arguments.
    """
    file, query = name, ""
    if not Path(name).is_file():  # the name of a file may contain a question mark itself
        file, _, query = name.partition("?")
    if not Path(file).is_file():
        raise UsageError(f"'{text}': no such file; python:FILE.py is a file that makes a model")
    arguments = _parse_arguments(text, query)
    return ModelSpec(text=text, kind="python", name=file, arguments=arguments)


def _parse_arguments(text: str, query: str) -> dict[str, Any]:
    """Return the arguments of a function from a query NAME=VALUE&NAME=VALUE.

    Values are numbers, true, false, none or else texts.

    Args:
        text: The name of the model, for error messages.
        query: The query. It may be empty.

    Raises:
        UsageError: If the query does not have this form.

    Example:
        "depth=12&name=small" gives {"depth": 12, "name": "small"}.
    """
    if not query:
        return {}
    arguments: dict[str, Any] = {}
    for argument in query.split("&"):
        name, equals_sign, value = argument.partition("=")
        is_valid = bool(equals_sign) and name.isidentifier()
        is_repeated = name in arguments
        if not is_valid or is_repeated:
            form = "python:FILE.py?NAME=VALUE&NAME=VALUE, each NAME once"
            raise UsageError(f"'{text}': '{argument}' is not an argument of a function; use {form}")
        arguments[name] = _parse_value(unquote(value))
    return arguments


def _parse_value(text: str) -> Any:
    """Return the value that an argument of a model stands for.

    Numbers and the words true, false, none and null become Python values. Everything else is a
    text.

    Example:
        "12" gives 12, "True" gives True, "none" gives None, "small" gives "small", and "[1]" gives
        "[1]".
    """
    try:
        value = parse_json(text)
    except ValueError:
        return _VALUES_OF_WORDS.get(text.lower(), text)
    return text if isinstance(value, dict | list) else value


def with_labels(specs: Sequence[ModelSpec], labels: Sequence[str | None]) -> list[ModelSpec]:
    """Return model specifications with labels, the names that tables display for the models.

    Args:
        specs: The model specifications.
        labels: One label per model in the same order, None for a model without a label. It may be
            empty if no model has a label.

    Raises:
        UsageError: If there is another number of labels, or a label that tables cannot show.
    """
    if not labels:
        return [replace(spec, label=None) for spec in specs]
    if len(labels) != len(specs):
        raise UsageError(
            f"--name is given {len(labels)} times for {len(specs)} models: give one per --model, "
            "in their order"
        )

    for label in labels:
        if label is not None:
            require_label(label)
    return [replace(spec, label=label) for spec, label in zip(specs, labels, strict=True)]


def require_label(label: str, origin: str = "name") -> None:
    """Raise UsageError if tables cannot show a label, the name that they display for a model.

    The message begins with `origin`, which says where the label was stated.
    """
    has_valid_form = re.fullmatch(r"\S.{,99}", label) is not None
    if not has_valid_form or not label.isprintable():
        raise UsageError(
            f"{origin} {label!r}: use 1 to 100 printable characters, and no space as the first one"
        )


def parse_auxiliary(text: str) -> ModelSpec:
    """Return the specification of an encoder that guides the attention of another one.

    Nothing is loaded.

    Args:
        text: The text that the user types: timm:ARCH, timm:ARCH/PATH, or the name of a model of
            transformers (hf:...) or of a Python file (python:...).

    Raises:
        UsageError: If the text has any other form, and if a file is missing. The message has the
            nearest names of timm.
    """
    kind, _, name = text.partition(":")
    if kind in ("hf", "python"):
        return parse_model_spec(text)
    arch, slash, path = name.partition("/")
    if kind != "timm" or not arch:
        from cosmos_eval.models.suggestions import nearest_guides

        forms = "timm:ARCH, timm:ARCH/PATH, hf:FOLDER, hf:ORG/NAME[@REVISION], python:FILE.py"
        guides = ", ".join(nearest_guides(text))
        raise UsageError(f"unknown auxiliary encoder '{text}'; nearest: {guides}; forms: {forms}")
    if slash and not Path(path).is_file():
        raise UsageError(f"'{text}': no such file {path}; use timm:ARCH or timm:ARCH/PATH")
    return ModelSpec(text=text, kind="timm", name=path, arch=arch)


def with_complete_paths(text: str, folder: Path) -> str:
    """Return the name of a model with complete paths, from one with relative paths.

    Names without a file or folder of this machine are returned as they are.

    Args:
        text: The name of the model, such as "python:a.py".
        folder: The folder that paths in the name are relative to.

    Example:
        In the folder /models, "python:a.py" gives "python:/models/a.py", and
        "openclip:ViT-B-32/a.pt" gives "openclip:ViT-B-32//models/a.pt".
    """
    kind, _, name = text.partition(":")
    path = folder / name
    if kind == "cosmos" and name not in RELEASED:
        return f"cosmos:{path}"
    if kind == "python":
        return f"python:{path}" if path.is_file() else _locate_arguments(name, folder)
    if kind == "hf" and name and path.is_dir():
        return f"hf:{path}"
    if kind == "openclip":
        if (path / DESCRIPTION).is_file():
            return f"openclip:{path}"
        arch, _, source = name.partition("/")
        if source and (folder / source).is_file():
            return f"openclip:{arch}/{folder / source}"
    return text


def _locate_arguments(name: str, folder: Path) -> str:
    """Return python:FILE.py?NAME=VALUE&NAME=VALUE with complete paths.

    Args:
        name: Everything after "python:". FILE.py is a path relative to `folder`, and so is each
            value that is a file below the folder.
        folder: The folder that paths are relative to.

    Example:
        In the folder /models, "a.py?file=b.pt&depth=2" gives
        "python:/models/a.py?file=/models/b.pt&depth=2".
    """
    file, question_mark, query = name.partition("?")
    arguments = []
    for argument in query.split("&"):
        argument_name, _, value = argument.partition("=")
        path = folder / unquote(value)
        if value and path.is_file():
            argument = f"{argument_name}={quote(str(path))}"
        arguments.append(argument)
    return f"python:{folder / file}{question_mark}{'&'.join(arguments)}"


def local_weights(spec: ModelSpec) -> list[Path]:
    """Return the files of this machine that hold the weights of a model.

    The list is empty if a file is missing, or if the name of the model does not refer to files of
    this machine. Python files do not hold weights.

    Example:
        The model cosmos:a.pt has the file a.pt, and the model openclip:ViT-B-32/openai has none.
    """
    path = Path(spec.name)
    is_released = spec.kind == "cosmos" and spec.name in RELEASED
    if spec.kind == "python" or is_released:
        return []

    files = [path]
    if spec.kind == "bundled":
        files = [_BUNDLED_FILES.get(spec.name, path)]
    elif spec.kind == "hf" and path.is_dir():
        files = find_saved_weights(path)
    elif spec.kind == "openclip" and spec.arch is None:
        # A folder with a description has one of several files. The preferred one comes first.
        possible_files = [path / file_name for file_name in DESCRIBED]
        files = [file for file in possible_files if file.is_file()][:1]
    return files if all(file.is_file() for file in files) else []


def find_saved_weights(folder: Path) -> list[Path]:
    """Return the files of weights that transformers saved in a folder.

    They are [model.safetensors], or the files of split weights in their order:
    [model-00001-of-00002.safetensors, model-00002-of-00002.safetensors]. The list is empty if there
    are none.
    """
    single_file = folder / "model.safetensors"
    if single_file.is_file():
        return [single_file]
    return sorted(folder.glob("model-*.safetensors"))


def weights_sha256(files: Sequence[Path]) -> str:
    """Return one SHA-256 of a model's files of weights.

    For a single file, it is the SHA-256 of the file. For several files, it is the SHA-256 of the
    list of their SHA-256s, in order.
    """
    digests = [file_sha256(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    return json_sha256(digests)


def description_sha256(spec: ModelSpec) -> str | None:
    """Return the SHA-256 of the files beside a model's weights that describe it.

    They state the configuration, the preprocessing and the tokenizer, and may change though the
    weights stay. None for models without such files, and for models that are not on this machine.
    """
    weights_files = local_weights(spec)
    if not weights_files or spec.kind not in _DESCRIPTIONS:
        return None
    sha256_by_file = {}
    for file_name in _DESCRIPTIONS[spec.kind]:
        path = weights_files[0].with_name(file_name)
        if path.is_file():
            sha256_by_file[file_name] = file_sha256(path)
    return json_sha256(sha256_by_file)


def code_sha256(spec: ModelSpec, content: bytes | None = None) -> str | None:
    """Return the SHA-256 of the Python file that makes a model, or None for other models.

    If the file's function is given arguments, they are hashed as well. An argument that is a file
    counts by the SHA-256 of its content, so that its place does not matter.

    Args:
        spec: The specification of the model, with the path of its file and the arguments.
        content: The content of the Python file. By default, it is read here.
    """
    if spec.kind != "python":
        return None
    if content is None:
        content = Path(spec.name).read_bytes()
    code_hash = sha256(content).hexdigest()
    if not spec.arguments:
        return code_hash

    hashable_arguments = {}
    for name, value in spec.arguments.items():
        if Path(str(value)).is_file():
            # A list, because an argument that is a text may be 64 hexadecimal digits as well.
            hashable_arguments[name] = [file_sha256(Path(value))]
        else:
            hashable_arguments[name] = value
    return json_sha256([code_hash, hashable_arguments])
