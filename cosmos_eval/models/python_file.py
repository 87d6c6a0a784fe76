"""A model of a user's Python file: its function `load(device, precision)`, or its `model`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from cosmos_eval.data.readers import FileError, read_bytes
from cosmos_eval.models.encoder import (
    CrossAttentionEncoder,
    Encoder,
    methods,
    require_encoder,
    require_output,
)
from cosmos_eval.models.two_tower import TwoTower
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Run the file, get its model, and check that it is an encoder.

    Its `info` then has what was typed and the hash of the file, so that cached embeddings of
    another version are not used. Raises UsageError, one line, whatever goes wrong in the file.
    """
    path = Path(spec.name)
    try:
        content = read_bytes(path)
    except FileError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    with _errors_of(str(path)):
        module = _run(path, content)
    make, encoder = getattr(module, "load", None), getattr(module, "model", None)
    where = f"{path}: load({device!r}, {precision!r})" if callable(make) else f"{path}: `model`"
    if callable(make):
        with _errors_of(where):
            encoder = make(device, precision)
    elif encoder is None:
        raise UsageError(f"{path} has no function `load(device, precision)` and no `model`")
    with _errors_of(where):
        if isinstance(encoder, TwoTower):
            encoder.to(device, precision)
        require_encoder(encoder, where)
    _require_honest(encoder.info, precision, where)
    code = hashlib.sha256(content).hexdigest()
    with _errors_of(f"{where}: setting its `info`"):
        encoder.info = encoder.info._replace(spec=spec.text, code_sha256=code)
        widths: set[int] = set()
        for name in methods(CrossAttentionEncoder):
            if callable(method := getattr(encoder, name, None)):
                setattr(encoder, name, _guarded(method, name, widths, path))
    if encoder.info.code_sha256 != code:
        raise UsageError(f"{where}: its `info` cannot be set, and results would not name the file")
    return encoder


def _run(path: Path, content: bytes) -> ModuleType:
    """Run the hashed content, whatever is compiled already, as a module.

    It finds installed packages, but not its neighbours, which the hash would not cover.
    """
    module = ModuleType(f"cosmos_eval_model_{hashlib.sha256(content).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    exec(compile(content, str(path), "exec"), module.__dict__)
    return module


def _guarded(
    method: Callable[..., Any], name: str, widths: set[int], path: Path
) -> Callable[..., Any]:
    """Wrap a method so that its errors, and outputs of another form, are a UsageError."""

    @wraps(method)
    def call(given: Any, *more: Any) -> Any:
        with _errors_of(f"{path}: {name}"):
            output = method(given, *more)
            require_output(name, given, output, widths, str(path))
            return output

    return call


@contextmanager
def _errors_of(where: str) -> Iterator[None]:
    """Report whatever the user's code raises, `sys.exit` included; --debug shows where in it."""
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UsageError(f"{where} failed: {reason} (--debug shows where)") from error


def _require_honest(info: EncoderInfo, precision: Precision, where: str) -> None:
    """Check the parts of `info` that identify results and cached embeddings."""
    if info.precision != precision:
        raise UsageError(f"{where} made a model of precision {info.precision}: choose that one")
    if info.weights is not None:
        raise UsageError(f"{where}: `weights` is of COSMOS checkpoints with two sets: give None")
    if info.weights_sha256 is None:
        raise UsageError(f"{where} gives no `weights_sha256`: hash the weights, random ones too")
