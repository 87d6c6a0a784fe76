"""Import MMSegmentation's data sets and models without MMCV's compiled operations.

`mmseg.datasets` and `mmseg.models` reach `mmcv.ops`, which loads the compiled module `mmcv._ext` at
import. The wheel `mmcv-lite` has no such module, and full MMCV would have to be compiled on most
machines. Data sets and our segmentor call none of these operations, so a placeholder that fails
when one is called is enough.
It is removed once the import is done: MMEngine later asks `importlib` for the spec of `mmcv._ext`
to tell whether MMCV was compiled, and a module without a spec makes that question an error.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

_EXTENSION = "mmcv._ext"


def mmseg_datasets() -> ModuleType:
    """The module `mmseg.datasets`, imported on first use, which must not be in a thread."""
    return _imported("mmseg.datasets")


def mmseg_models() -> ModuleType:
    """The module `mmseg.models`, imported on first use, which must not be in a thread."""
    return _imported("mmseg.models")


@functools.cache
def _imported(module: str) -> ModuleType:
    with _extension_placeholder(), warnings.catch_warnings():
        # mmcv.ops compiles two functions with torch.jit at import, which newer torch deprecates.
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        # MMCV warns of a name that has moved wherever the name is there.
        warnings.filterwarnings("ignore", message="``MultiScale", category=ImportWarning)
        return importlib.import_module(module)


@contextmanager
def _extension_placeholder() -> Iterator[None]:
    """Have `mmcv._ext` importable inside the block; a real compiled one is left alone."""
    if importlib.util.find_spec(_EXTENSION) is not None:
        yield
        return
    sys.modules[_EXTENSION] = _Placeholder(_EXTENSION)
    try:
        yield
    finally:
        del sys.modules[_EXTENSION]


class _Placeholder(ModuleType):
    """Has every operation by name; none can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system and inspect look for
            raise AttributeError(name)

        def missing_operation(*_: Any, **__: Any) -> NoReturn:
            raise RuntimeError(f"mmcv's compiled operation {name} is not part of mmcv-lite")

        return missing_operation
