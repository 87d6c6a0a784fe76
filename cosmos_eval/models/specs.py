"""Model specifications as users type them.

Names are checked without loading a model: torch is not imported here.
"""

import importlib.util
import re
from collections.abc import Sequence
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

_FORMS = (
    "cosmos:NAME|PATH, openclip:ARCH/TAG|PATH, openclip:FOLDER, openclip:hf-hub:ORG/NAME, "
    "hf:FOLDER, hf:ORG/NAME[@REVISION] or python:FILE.py[?NAME=VALUE&...]"
)
# Values of arguments that are not texts, in lower case.
_VALUES_OF_WORDS = {"true": True, "false": False, "none": None, "null": None}


def _find_bundled_files() -> dict[str, Path]:
    """Return the files of the models that are part of the package, by the models' names.

    For example, the file scenes-clip.safetensors has the name "scenes-clip".
    """
    package = importlib.util.find_spec("cosmos_core")
    folders = package.submodule_search_locations if package else None
    files: dict[str, Path] = {}
    for folder in folders or ():
        for path in Path(folder, "bundled").glob("*.safetensors"):
            files[path.stem] = path
    return files


_MODELS_OF_DEFAULT_RUN = ("scenes-cosmos", "scenes-clip")
BUNDLED: tuple[str, ...] = (
    *_MODELS_OF_DEFAULT_RUN,
    *sorted(set(_find_bundled_files()) - set(_MODELS_OF_DEFAULT_RUN)),
)


def parse_model_spec(text: str, arch: str | None = None, weights: Weights = "teacher") -> ModelSpec:
    """Return the specification of a model from the name that a user types. Nothing is loaded.

    For example, "openclip:ViT-B-32/openai" has the kind "openclip", the architecture "ViT-B-32" and
    the name "openai". `arch` is the architecture of a `cosmos:PATH`, and is ignored for all other
    models. `weights` chooses between the teacher and the student of a COSMOS model.

    Raises UsageError for an unknown name, with the nearest known names. OpenCLIP's architectures
    and tags are only checked when a model is loaded.
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
    known_names = [*BUNDLED, *(f"cosmos:{released}" for released in RELEASED)]
    raise UsageError(
        f"unknown model '{text}'; nearest: {nearest(text, known_names)}; forms: {_FORMS}"
    )


def _parse_cosmos_name(text: str, name: str, arch: str | None, weights: Weights) -> ModelSpec:
    """Return the specification of cosmos:NAME, a released checkpoint, or cosmos:PATH, a file.

    `text` is what the user types, and `name` what follows the colon. `arch` is the architecture of
    a file. Raises UsageError if neither a checkpoint nor a file has this name.
    """
    if name not in RELEASED and not Path(name).is_file():
        nearest_names = nearest(name, [*RELEASED])
        raise UsageError(f"'{text}': no such file and no released model; nearest: {nearest_names}")
    arch = RELEASED.get(name, arch)
    return ModelSpec(text=text, kind="cosmos", name=name, arch=arch, weights=weights)


def _parse_openclip_name(text: str, name: str) -> ModelSpec:
    """Return the specification of a model of OpenCLIP.

    `text` is what the user types: openclip:ARCH/TAG, openclip:ARCH/PATH, openclip:FOLDER or
    openclip:hf-hub:ORG/NAME. `name` is what follows the first colon. Raises UsageError for any
    other form.
    """
    # A model that describes itself, in a folder or on the hub, needs no ARCH.
    if name.startswith(HUB) or (Path(name) / DESCRIPTION).is_file():
        return ModelSpec(text=text, kind="openclip", name=name)
    arch, _, source = name.partition("/")  # names of architectures do not contain a slash
    if not arch or not source:
        raise UsageError(
            f"'{text}': use openclip:ARCH/TAG or openclip:ARCH/PATH, as in "
            f"openclip:ViT-B-32/openai; a FOLDER needs an {DESCRIPTION}"
        )
    return ModelSpec(text=text, kind="openclip", name=source, arch=arch)


def _parse_hf_name(text: str, name: str) -> ModelSpec:
    """Return the specification of a model of transformers.

    `text` is what the user types: hf:FOLDER, hf:ORG/NAME or hf:ORG/NAME@REVISION. `name` is what
    follows the colon. Raises UsageError for any other form.
    """
    is_folder = bool(name) and Path(name).is_dir()
    is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+(@\S+)?", name)
    if not is_folder and not is_repository:
        raise UsageError(f"'{text}': no such folder; use hf:FOLDER or hf:ORG/NAME[@REVISION]")
    return ModelSpec(text=text, kind="hf", name=name)


def _parse_python_name(text: str, name: str) -> ModelSpec:
    """Return the specification of a model that a user's Python file makes.

    `text` is what the user types: python:FILE.py, or python:FILE.py?NAME=VALUE&NAME=VALUE with
    arguments for the function `load` of the file. `name` is what follows the colon. Raises
    UsageError if the file does not exist, and for wrong arguments.
    """
    file, query = name, ""
    if not Path(name).is_file():  # the name of a file may contain a question mark
        file, _, query = name.partition("?")
    if not Path(file).is_file():
        raise UsageError(f"'{text}': no such file; python:FILE.py is a file that makes a model")
    arguments = _parse_arguments(text, query)
    return ModelSpec(text=text, kind="python", name=file, arguments=arguments)


def _parse_arguments(text: str, query: str) -> dict[str, Any]:
    """Return the arguments of a function from a query NAME=VALUE&NAME=VALUE.

    Values are numbers, true, false, none or else texts. For example, "depth=12&name=small" ->
    {"depth": 12, "name": "small"}. `text` is the name of the model in error messages. Raises
    UsageError if the query does not have this form.
    """
    if not query:
        return {}
    arguments: dict[str, Any] = {}
    for argument in query.split("&"):
        name, equals_sign, value = argument.partition("=")
        if not equals_sign or not name.isidentifier() or name in arguments:
            form = "python:FILE.py?NAME=VALUE&NAME=VALUE, each NAME once"
            raise UsageError(f"'{text}': '{argument}' is not an argument of a function; use {form}")
        arguments[name] = _parse_value(unquote(value))
    return arguments


def _parse_value(text: str) -> Any:
    """Return the value that an argument of a model stands for.

    Numbers and the words true, false, none and null become Python values. Everything else is a
    text: "12" -> 12, "True" -> True, "none" -> None, "small" -> "small", "[1]" -> "[1]".
    """
    try:
        value = parse_json(text)
    except ValueError:
        return _VALUES_OF_WORDS.get(text.lower(), text)
    return text if isinstance(value, dict | list) else value


def with_labels(specs: Sequence[ModelSpec], labels: Sequence[str | None]) -> list[ModelSpec]:
    """Return model specifications with labels, the names that tables display for the models.

    `labels` is empty, or has one label per model in the same order. A label of None leaves a model
    without one. Raises UsageError for another number of labels, and for a label that tables
    cannot show.
    """
    if not labels:
        return [replace(spec, label=None) for spec in specs]
    if len(labels) != len(specs):
        raise UsageError(
            f"--name is given {len(labels)} times for {len(specs)} models: give one per --model, "
            "in their order"
        )
    for label in labels:
        if label is None:
            continue
        if not re.fullmatch(r"[^\s(][^(]{,99}", label) or not label.isprintable():
            raise UsageError(
                f"name {label!r}: use 1 to 100 printable characters without '(', which in tables "
                "begins what differs from the defaults"
            )
    return [replace(spec, label=label) for spec, label in zip(specs, labels, strict=True)]


def parse_auxiliary(text: str) -> ModelSpec:
    """Return the specification of an encoder that guides the attention of another one.

    `text` is what the user types: timm:ARCH, timm:ARCH/PATH, or the name of a model of transformers
    or of a Python file. Nothing is loaded. Raises UsageError for any other form, and for a missing
    file.
    """
    kind, _, name = text.partition(":")
    if kind in ("hf", "python"):
        return parse_model_spec(text)
    arch, slash, path = name.partition("/")
    if kind != "timm" or not arch:
        forms = "timm:ARCH, timm:ARCH/PATH, hf:FOLDER, hf:ORG/NAME[@REVISION], python:FILE.py"
        raise UsageError(f"unknown auxiliary encoder '{text}'; forms: {forms}")
    if slash and not Path(path).is_file():
        raise UsageError(f"'{text}': no such file {path}; use timm:ARCH or timm:ARCH/PATH")
    return ModelSpec(text=text, kind="timm", name=path, arch=arch)


def with_complete_paths(text: str, folder: Path) -> str:
    """Return the name of a model with complete paths, from one with paths relative to `folder`.

    For example, in the folder /models, "python:a.py" -> "python:/models/a.py", and
    "openclip:ViT-B-32/a.pt" -> "openclip:ViT-B-32//models/a.pt". Names without a file or folder of
    this machine are returned as they are.
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

    `name` is the part after the colon. FILE.py is relative to `folder`, and so is each value that
    is a file below it. For example, in the folder /models, "a.py?file=b.pt&depth=2" ->
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
    """Return the files of a model's weights that its name refers to: cosmos:a.pt -> [a.pt].

    The list is empty if any file is missing, or if the name does not refer to files of this
    machine.
    """
    files = _expected_weights(spec)
    if not all(file.is_file() for file in files):
        return []
    return files


def _expected_weights(spec: ModelSpec) -> list[Path]:
    """Return the files of this machine that a model's name refers to. They may be missing.

    The list is empty if the name does not refer to files of weights.
    """
    path = Path(spec.name)
    if spec.kind == "python" or (spec.kind == "cosmos" and spec.name in RELEASED):
        return []
    if spec.kind == "bundled":
        return [_find_bundled_files().get(spec.name, path)]
    if spec.kind == "hf" and path.is_dir():
        return find_saved_weights(path)
    if spec.kind == "openclip" and spec.arch is None:
        for name in DESCRIBED:
            if (path / name).is_file():
                return [path / name]
        return []
    return [path]


def find_saved_weights(folder: Path) -> list[Path]:
    """Return the files of weights that transformers saved in a folder.

    They are [model.safetensors], or several files model-00001-of-00002.safetensors... in order. The
    list is empty if there are none.
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


def code_sha256(spec: ModelSpec, content: bytes | None = None) -> str | None:
    """Return the SHA-256 of the Python file that makes a model, or None for other models.

    If the file's function is given arguments, they are hashed as well. An argument that is a file
    counts by the SHA-256 of its content, so that its place does not matter. `content` is the
    content of the Python file, if it has been read.
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
            # The list tells the hash of a file from an argument that is a text.
            hashable_arguments[name] = [file_sha256(Path(value))]
        else:
            hashable_arguments[name] = value
    return json_sha256([code_hash, hashable_arguments])
