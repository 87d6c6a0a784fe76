"""`--set a.b=value`: a configuration with some of its values replaced. Values are JSON; texts and
choices need no quotes, tuples no brackets. `method=slip`, or `method=FILE.py` for one of your own,
puts another method, with its own options, in place of the recipe's; `architecture` is an OpenCLIP
name, a JSON file, or JSON."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cosmos_core.config import ImageViewConfig, OptimConfig, TrainConfig
from cosmos_core.methods import METHODS, load_method
from cosmos_core.model.build import model_config
from cosmos_core.types import Method
from cosmos_core.utils.files import file_sha256
from cosmos_core.utils.recipe import SCENES
from cosmos_core.utils.text import parse_json

WARMUP = 0.2  # of the steps of a shortened run, at most

# Names that other programs have for these values.
SYNONYMS = {
    **{"learning_rate": "lr", "epochs": "steps", "max_steps": "steps", "iterations": "steps"},
    **{"wd": "weight_decay", "warmup": "warmup_steps", "num_workers": "workers"},
    **{"image_size": "global_size", "grad_clip_norm": "clip_norm", "train_data": "shards"},
}


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Apply assignments, a method first, the others in order. Another method brings its own image
    views and momentum, but on scenes, whose captions name colours and sides, the recipe's stay. The
    warm-up of a run with fewer steps is shortened where it is not given. Raises ValueError, one
    line, for wrong keys and values."""
    recipe = config
    for assignment in sorted(assignments, key=lambda text: not text.startswith("method=")):
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value, not {assignment!r}")
        try:
            _require_known(config, key)
            config = _replace(config, key.split("."), text)
            if key == "method" and not recipe.data.shards.startswith(SCENES):
                config = _with_views_of_its_method(config, recipe)
        except ValueError as error:
            raise ValueError(f"--set {key}: {error}") from error
    warmup_given = any(text.startswith("optim.warmup_steps=") for text in assignments)
    return config if warmup_given else _with_fitting_warmup(config, recipe)


def _with_fitting_warmup(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Limit the warm-up of a run that has fewer steps than its recipe to WARMUP of the steps, or to
    the recipe's own fraction where that is larger."""
    steps, whole = config.optim.steps, recipe.optim
    most = round(steps * max(WARMUP, whole.warmup_steps / whole.steps))
    if steps >= whole.steps or config.optim.warmup_steps <= most:
        return config
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, warmup_steps=most))


def _with_views_of_its_method(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Take image views and momentum from the method, their sizes from the recipe; the recipe's own
    method keeps what the recipe has."""
    if config.method.name == recipe.method.name:
        return dataclasses.replace(config, image=recipe.image, optim=recipe.optim)
    sizes = {name: getattr(recipe.image, name) for name in ("global_size", "local_size")}
    views = getattr(config.method, "image", ImageViewConfig())
    momentum = getattr(config.method, "momentum", OptimConfig.momentum)
    optim = dataclasses.replace(config.optim, momentum=momentum, momentum_ramp=False)
    return dataclasses.replace(config, image=dataclasses.replace(views, **sizes), optim=optim)


def _replace(record: Any, path: Sequence[str], text: str) -> Any:
    name, *rest = path
    old = getattr(record, name)
    others: dict[str, Any] = {}
    if rest:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"{name!r} has no parts")
        new = _replace(old, rest, text)
    elif isinstance(record, TrainConfig) and name == "method":
        new, others = _method(text)
    elif isinstance(record, TrainConfig) and name == "architecture":
        new = _architecture(text)
    elif dataclasses.is_dataclass(old):
        raise ValueError(f"{name!r} is not one value; its parts: {', '.join(_names(old))}")
    else:
        new = _parse_like(old, text)
    try:
        return dataclasses.replace(record, **{name: new}, **others)
    except ValidationError as error:
        raise ValueError(_reason(error, old)) from error


def _require_known(config: TrainConfig, key: str) -> None:
    """Raise ValueError, with the nearest names of any part, for a name that no part has."""
    record: Any = config
    known = dict(values(config))
    for name in key.split("."):
        if dataclasses.is_dataclass(record) and name not in _names(record):
            leaf = key.rpartition(".")[2]
            wanted = (leaf, SYNONYMS.get(leaf))
            same = [full for full in known if full.rpartition(".")[2] in wanted]
            close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise ValueError(f"no {name!r}; nearest: {', '.join(same or close or _names(record))}")
        record = getattr(record, name, None)


def values(record: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of everything that can be set, but for the method."""
    for name in _names(record):
        value = getattr(record, name)
        if dataclasses.is_dataclass(value):
            yield from values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def sources(recipe: TrainConfig, config: TrainConfig, assignments: Sequence[str]) -> dict[str, str]:
    """Return for the method and each name of `values(config)` what its value comes from: the
    assignments of `--set`, their method, the number of steps, the recipe, or a default."""
    keys = {text.partition("=")[0] for text in assignments}
    before, found = dict(values(recipe)), {"method": "--set" if "method" in keys else "recipe"}
    for name, value in values(config):
        group, _, leaf = name.rpartition(".")
        default = getattr(type(getattr(config, group)) if group else TrainConfig, leaf, None)
        if name in keys:
            found[name] = "--set"
        elif name == "optim.warmup_steps" and value != before[name]:
            found[name] = "optim.steps"
        elif before.get(name, value) != value or (group == "method" and "method" in keys):
            found[name] = f"method {config.method.name}"
        else:
            found[name] = "default" if value == default else "recipe"
    return found


def _names(record: Any) -> list[str]:
    """Return the fields that can be set; the name and the hash of a method go with its kind."""
    if not dataclasses.is_dataclass(record):
        return []
    derived = ("method_sha256", "name" if hasattr(record, "create_student") else "")
    return [f.name for f in dataclasses.fields(record) if f.name not in derived]


def _method(text: str) -> tuple[Method, dict[str, str]]:
    """Return a method, with its default options, and the hash of its file if it is the user's."""
    if text in METHODS:
        return METHODS[text](), {"method_sha256": ""}
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        return load_method(path), {"method_sha256": file_sha256(path)}
    known = f"{text!r} is none of {', '.join(METHODS)}, and no Python file"
    raise ValueError(f"{known}{_nearest(text, [*METHODS])}")


def _architecture(text: str) -> Any:
    """Keep a name; read a file, so that a checkpoint of the run states its whole content."""
    value = _parse(text)
    config = model_config(value if isinstance(value, dict) else text)
    return config if isinstance(value, dict) or text.endswith(".json") else text


def _parse_like(old: Any, text: str) -> Any:
    if isinstance(old, tuple) and old and isinstance(old[0], str):
        return tuple(re.findall(r"[^\s,\[\]\"']+", text))
    if isinstance(old, tuple):
        value = _parse(text if text.startswith("[") else f"[{text}]")
        return tuple(value) if isinstance(value, list) else value
    return text if isinstance(old, str) else _parse(text)


def _parse(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _reason(error: ValidationError, old: Any) -> str:
    """Return the first of pydantic's messages with the nearest choice or an example."""
    first = error.errors()[0]
    if first["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", first["msg"])
        return f"{first['msg']}, not {first['input']!r}{_nearest(first['input'], choices)}"
    like = ", ".join(map(str, old)) if isinstance(old, tuple) else json.dumps(old)
    return f"{first['msg']}, not {first['input']!s:.60}; for example {like}"


def _nearest(text: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(text, choices, n=1)
    return f"; nearest: {close[0]}" if close else ""
