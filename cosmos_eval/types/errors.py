"""The errors that users see."""

from collections.abc import Sequence

from cosmos_core.utils.errors import CosmosEvalError, UsageError

__all__ = ["CosmosEvalError", "UsageError", "nearest"]


def nearest(name: str, known_names: Sequence[str]) -> str:
    """Return the known names that are most similar to a misspelt name, separated by commas.

    `nearest("imagenet", ["imagenet1k", "voc20"])` gives `imagenet1k`. If no name is similar, the
    first ten known names are returned.
    """
    import difflib

    close_names = difflib.get_close_matches(name, known_names, n=3, cutoff=0.4)
    return ", ".join(close_names or list(known_names)[:10])
