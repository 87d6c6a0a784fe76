"""The errors that users see."""

from collections.abc import Sequence


class CosmosEvalError(Exception):
    """A user-facing error: one line that names the fault, its place, and the remedy."""


class UsageError(CosmosEvalError):
    """Bad input or bad usage; the command line ends with status 2."""


def nearest(name: str, known_names: Sequence[str]) -> str:
    """Return the known names that are closest to an unknown name, separated by commas."""
    import difflib

    close_names = difflib.get_close_matches(name, known_names, n=3, cutoff=0.4)
    return ", ".join(close_names or list(known_names)[:10])
