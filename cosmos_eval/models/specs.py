"""Model specifications as users type them. Imports no torch: names are checked without loading."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from cosmos_core.utils.files import file_sha256, json_sha256
from cosmos_core.utils.text import parse_json
from cosmos_eval.types import ModelSpec, UsageError, Weights, nearest

# Files cosmos_<name>.pt of the Hugging Face repository sankim2/cosmos and their architectures
# (README of github.com/ExplainableML/cosmos: ViT-B/16 and ViT-B/32, with GELU).
RELEASED: dict[str, str] = {
    f"vitb{patch}_{data}": f"ViT-B-{patch}"
    for patch in (16, 32)
    for data in ("cc3m", "cc12m", "yfcc15m", "merged30m", "pixelprose")
}

TWO_SETS = ("bundled", "cosmos")
"""The kinds of models that have two sets of weights, the teacher's and the student's."""

HUB = "hf-hub:"  # as OpenCLIP marks a repository of the Hugging Face hub
# As OpenCLIP names a model's description and its weights, in its own order of preference; its
# constants would import torch.
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
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_LONGEST_LABEL = 100


def _bundled_files() -> dict[str, Path]:
    package = importlib.util.find_spec("cosmos_core")
    folders = package.submodule_search_locations if package else None
    files = [path for f in folders or () for path in (Path(f) / "bundled").glob("*.safetensors")]
    return {path.stem: path for path in files}


_FIRST = ("scenes-cosmos", "scenes-clip")  # of the default run
BUNDLED: tuple[str, ...] = (*_FIRST, *sorted(set(_bundled_files()) - set(_FIRST)))


def parse_model_spec(text: str, arch: str | None = None, weights: Weights = "teacher") -> ModelSpec:
    """Parse a typed model name; nothing is loaded, and OpenCLIP's names are checked only then.
    `arch` is used by `cosmos:PATH` only. Raises UsageError with the nearest known names."""
    kind, separator, name = text.partition(":")
    if text != text.encode(errors="ignore").decode():
        raise UsageError(f"model {text!r}: its name is not UTF-8, as results need; rename the file")
    if text in BUNDLED:
        return ModelSpec(text=text, kind="bundled", name=text, weights=weights)
    if separator and kind == "cosmos":
        return _cosmos_spec(text, name, arch, weights)
    if separator and kind == "openclip":
        return _openclip_spec(text, name)
    if separator and kind == "hf":
        if (name and Path(name).is_dir()) or re.fullmatch(r"[\w.-]+/[\w.-]+(@\S+)?", name):
            return ModelSpec(text=text, kind="hf", name=name)
        raise UsageError(f"'{text}': no such folder; use hf:FOLDER or hf:ORG/NAME[@REVISION]")
    if separator and kind == "python":
        file, _, query = (name, "", "") if Path(name).is_file() else name.partition("?")
        if Path(file).is_file():
            return ModelSpec(text=text, kind="python", name=file, arguments=_arguments(text, query))
        raise UsageError(f"'{text}': no such file; python:FILE.py is a file that makes a model")
    known = [*BUNDLED, *(f"cosmos:{released}" for released in RELEASED)]
    raise UsageError(f"unknown model '{text}'; nearest: {nearest(text, known)}; forms: {_FORMS}")


def _arguments(text: str, query: str) -> dict[str, Any]:
    """Parse `NAME=VALUE&NAME=VALUE`; values are numbers, true, false, none or else texts."""
    found: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier() or name in found:
            form = "python:FILE.py?NAME=VALUE&NAME=VALUE, each NAME once"
            raise UsageError(f"'{text}': '{part}' is no argument of a function; use {form}")
        found[name] = _value(unquote(value))
    return found


def _value(text: str) -> Any:
    with suppress(ValueError):
        value = parse_json(text)
        return text if isinstance(value, dict | list) else value
    return _WORDS.get(text.lower(), text)


def argument_records(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments of a user's function as results hold them: files with their SHA-256."""
    return {
        name: {"file": value, "sha256": file_sha256(Path(value))}
        if isinstance(value, str) and Path(value).is_file()
        else value
        for name, value in spec.arguments.items()
    }


def argument_hashes(records: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what identifies arguments: of files the hash, wherever they are; None for none."""
    if not records:
        return None
    return {k: v["sha256"] if isinstance(v, Mapping) else v for k, v in records.items()}


def labelled(specs: Sequence[ModelSpec], labels: Sequence[str | None]) -> list[ModelSpec]:
    """Return models with the names that results give them, one per model in their order, or none.
    Raises UsageError for another number of names, and for one that tables could not show."""
    if labels and len(labels) != len(specs):
        raise UsageError(
            f"--name is given {len(labels)} times for {len(specs)} models: give one per --model, "
            "in their order"
        )
    for label in (label for label in labels if label is not None):
        if (
            not label.strip()
            or not label.isprintable()
            or "(" in label
            or len(label) > _LONGEST_LABEL
        ):
            raise UsageError(
                f"name {label!r}: use 1 to {_LONGEST_LABEL} printable characters without '(', "
                "which in tables begins what differs from the defaults"
            )
    named = zip(specs, labels or [None] * len(specs), strict=True)
    return [replace(spec, label=label) for spec, label in named]


def parse_auxiliary(text: str) -> ModelSpec:
    """Parse the name of an encoder that guides another; nothing is loaded. Raises UsageError."""
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


def _cosmos_spec(text: str, name: str, arch: str | None, weights: Weights) -> ModelSpec:
    if name not in RELEASED and not Path(name).is_file():
        known = nearest(name, [*RELEASED])
        raise UsageError(f"'{text}': no such file and no released model; nearest: {known}")
    arch = RELEASED.get(name, arch)
    return ModelSpec(text=text, kind="cosmos", name=name, arch=arch, weights=weights)


def _openclip_spec(text: str, name: str) -> ModelSpec:
    # A model that describes itself, in a folder or on the hub, needs no ARCH.
    if name.startswith(HUB) or (Path(name) / DESCRIPTION).is_file():
        return ModelSpec(text=text, kind="openclip", name=name)
    arch, _, source = name.partition("/")  # no architecture's name holds a slash
    if not arch or not source:
        raise UsageError(
            f"'{text}': use openclip:ARCH/TAG or openclip:ARCH/PATH, as in "
            f"openclip:ViT-B-32/openai; a FOLDER needs an {DESCRIPTION}"
        )
    return ModelSpec(text=text, kind="openclip", name=source, arch=arch)


def located(text: str, folder: Path) -> str:
    """Resolve a model name whose file or folder is relative to `folder`; keep other names."""
    kind, _, name = text.partition(":")
    described = kind == "openclip" and (folder / name / DESCRIPTION).is_file()
    saved = kind == "hf" and name and (folder / name).is_dir()
    if kind == "python" and not (folder / name).is_file():
        return _located_arguments(name, folder)
    if (kind == "cosmos" and name not in RELEASED) or kind == "python" or described or saved:
        return f"{kind}:{folder / name}"
    arch, _, source = name.partition("/")
    own = kind == "openclip" and source and (folder / source).is_file()
    return f"openclip:{arch}/{folder / source}" if own else text


def _located_arguments(name: str, folder: Path) -> str:
    file, question, query = name.partition("?")
    parts = []
    for part in query.split("&"):
        argument, _, value = part.partition("=")
        path = folder / unquote(value)
        parts.append(f"{argument}={quote(str(path))}" if value and path.is_file() else part)
    return f"python:{folder / file}{question}{'&'.join(parts)}"


def local_weights(spec: ModelSpec) -> list[Path]:
    """List the files of a model's weights where its name says which of this machine they are."""
    path = Path(spec.name)
    if spec.kind == "python" or (spec.kind == "cosmos" and spec.name in RELEASED):
        return []
    if spec.kind == "hf" and path.is_dir():
        found = saved_weights(path)
    elif spec.kind == "openclip" and spec.arch is None:
        found = [path / name for name in DESCRIBED if (path / name).is_file()][:1]
    else:
        found = [_bundled_files().get(spec.name, path) if spec.kind == "bundled" else path]
    return found if all(file.is_file() for file in found) else []


def saved_weights(folder: Path) -> list[Path]:
    """List the files of what transformers saved, one or the parts in the order of their names."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))


def weights_sha256(files: Sequence[Path]) -> str:
    """Hash a file of weights, or the hashes of several in the order given."""
    digests = [file_sha256(file) for file in files]
    return digests[0] if len(digests) == 1 else json_sha256(digests)


def code_identity(code: str | None, arguments: Mapping[str, Any] | None) -> str | None:
    """Return what identifies the user's code in caches: its hash, with that of its arguments."""
    hashes = argument_hashes(arguments)
    return code if hashes is None else json_sha256([code, hashes])


def code_file(spec: ModelSpec) -> Path | None:
    """Return the user's Python file that makes a model, where one does."""
    return Path(spec.name) if spec.kind == "python" else None
