"""Pickles of plain values and arrays, which are read without executing code. Imports no torch."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_eval.data.readers import FileError, read_bytes


def read_plain_pickle(path: Path) -> Any:
    """Return the value of a pickle of plain values and NumPy arrays.

    Pickles can name any function, and loading them calls it. Here, only the functions that rebuild
    NumPy's arrays and numbers are called. Text of Python 2 is read as Latin-1.

    Raises:
        FileError: If the file cannot be read, is damaged, or names anything else.
    """
    content = read_bytes(path)
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except FileError:
        raise
    except Exception as error:  # damaged pickles raise errors of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"is not a pickle of plain values: {reason}") from error


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Return the bytes that old protocols write as text, in place of `_codecs.encode`."""
    if encoding != "latin1":
        raise FileError(f"is not a pickle of plain values: it has bytes in {encoding}")
    return text.encode("latin1")


def _plain_functions() -> dict[tuple[str, str], Any]:
    """Return the functions that a pickle may name, by module and name."""
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    from_buffer = np.zeros(1).__reduce_ex__(5)[0]
    functions: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
    }
    for package in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
        functions[f"{package}.multiarray", "_reconstruct"] = reconstruct
        functions[f"{package}.multiarray", "scalar"] = scalar
        functions[f"{package}.numeric", "_frombuffer"] = from_buffer
    return functions


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle, and refuses all names except the keys of `_plain_functions`."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the function of a name. Raise FileError if it is not allowed."""
        function = _plain_functions().get((module, name))
        if function is None:
            raise FileError(
                f"names {module}.{name}, which reading it would execute: it is not the original"
            )
        return function
