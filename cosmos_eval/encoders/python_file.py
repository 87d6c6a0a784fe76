"""A model of the user's own: a Python file whose function `load(device, precision)` makes it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from cosmos_eval.encoder import Encoder
from cosmos_eval.encoders.contract import require_encoder
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Run the file, call its `load`, and look whether what comes is an encoder.

    Its `info` then has what was typed and the hash of the file, so that nothing that was kept of
    another version of it is used. Raises UsageError, one line, whatever goes wrong in the file.
    """
    path = Path(spec.name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    with _its_own_errors(str(path)):
        module = _run(path, content)
    make = getattr(module, "load", None)
    if not callable(make):
        raise UsageError(f"{path} has no function `load(device, precision)`, which makes the model")
    where = f"{path}: load({device!r}, {precision!r})"
    with _its_own_errors(where):
        encoder = make(device, precision)
    require_encoder(encoder, where)
    _require_honest(encoder.info, precision, where)
    code = hashlib.sha256(content).hexdigest()
    with _its_own_errors(f"{where}: setting its `info`"):
        encoder.info = encoder.info._replace(spec=spec.text, code_sha256=code)
    return encoder


def _run(path: Path, content: bytes) -> ModuleType:
    """The module that the content makes: what is hashed is what runs, whatever is kept compiled.

    It finds installed packages, but not its neighbours, which the hash would not cover.
    """
    module = ModuleType(f"cosmos_eval_model_{hashlib.sha256(content).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    exec(compile(content, str(path), "exec"), module.__dict__)
    return module


@contextmanager
def _its_own_errors(where: str) -> Iterator[None]:
    """Whatever the user's code raises is a matter of that code; --debug shows where in it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UsageError(f"{where} failed: {said} (--debug shows where)") from error


def _require_honest(info: EncoderInfo, precision: Precision, where: str) -> None:
    """Results are told apart, and embeddings kept, by what a model says of itself."""
    if info.precision != precision:
        raise UsageError(f"{where} made a model of precision {info.precision}: choose that one")
    if info.weights is not None:
        raise UsageError(f"{where}: `weights` is of COSMOS checkpoints with two sets: give None")
    if info.weights_sha256 is None:
        raise UsageError(f"{where} gives no `weights_sha256`: hash the weights, random ones too")
