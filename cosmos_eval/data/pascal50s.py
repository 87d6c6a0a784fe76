"""Pascal-50S: pairs of captions, of which people chose the better one. Imports no torch.

Vedantam et al. 2015, arXiv 1411.5726. The files and the rule for ties follow the code in
https://github.com/jmhessel/clipscore/issues/4.
"""

import io
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.data.readers import FileError, read_bytes, report_faults_at
from cosmos_eval.types import UsageError

VOTES = 48
"""Votes for each pair: one by each of 48 reference captions."""
_CATEGORIES = {1: "HC", 2: "HI", 3: "HM", 4: "MM"}
_SEED = 42  # of the random choice among captions with equal votes


class RatedPair(NamedTuple):
    """An image with two captions, the one that more people chose first."""

    image: str
    captions: tuple[str, str]
    # HC: two correct captions by people; HI: one is of another image; HM: a person's and a
    # machine's; MM: two machines'.
    category: str


def read_pairs(folder: Path) -> Iterator[RatedPair]:
    """Yield the pairs of `pair_pascal.mat`, chosen by the votes of `consensus_pascal.mat`.

    Among captions with equal votes, Python's `random.Random(42)` chooses, one draw for each pair.

    Args:
        folder: The folder of both files.

    Raises:
        UsageError: If a file is missing or broken, or if their entries do not fit.
    """
    pairs = _read_judged_pairs(folder / "pair_pascal.mat")
    votes_path = folder / "consensus_pascal.mat"
    winners = _read_winners(votes_path, len(pairs))
    generator = random.Random(_SEED)
    for number, (image, (first, second), category) in enumerate(pairs):
        n_votes = Counter(winners[number * VOTES : (number + 1) * VOTES])
        if not n_votes[first] + n_votes[second]:
            raise UsageError(f"{votes_path}: no vote of pair {number} is for one of its captions")
        is_first_better = n_votes[first] > n_votes[second] + generator.random() - 0.5
        captions = (first, second) if is_first_better else (second, first)
        yield RatedPair(image, captions, category)


def _read_winners(path: Path, n_pairs: int) -> list[str]:
    """Return the caption that each vote of `consensus_pascal.mat` is for.

    Raise UsageError if the file is broken, or has another number of votes.
    """
    winners = []
    with report_faults_at(f"{path}: "):
        votes = list(_read_mat(path, ("triplets",))["triplets"].flat)
        if len(votes) != VOTES * n_pairs:
            raise FileError(f"has {len(votes)} votes, not {VOTES} for each of {n_pairs} pairs")
        for number, vote in enumerate(votes):
            try:
                _, caption_b, caption_c, winner = (_value(cell) for cell in vote)
            except (TypeError, ValueError):
                raise FileError(
                    f"vote {number} must be a reference, two captions and the winner"
                ) from None
            winners.append(str(caption_b if winner == 1 else caption_c).strip())
    return winners


def _read_judged_pairs(path: Path) -> list[RatedPair]:
    """Return the pairs of `pair_pascal.mat` in the order of the file, before any votes.

    Raise UsageError if it is broken.
    """
    with report_faults_at(f"{path}: "):
        content = _read_mat(path, ("new_input", "category"))
        rows = []
        for row in content["new_input"].flat:
            cells = row if np.ndim(row) or isinstance(row, np.void) else ()
            rows.append([str(_value(cell)).strip() for cell in cells])
        categories = [_CATEGORIES.get(number, "") for number in content["category"].flat]
        are_complete = all(len(row) == 3 for row in rows) and all(categories)
        if not are_complete or len(categories) != len(rows):
            raise FileError("must hold an image, two captions and a category 1 to 4 for each pair")
    pairs = []
    for (image, first, second), category in zip(rows, categories, strict=True):
        pairs.append(RatedPair(image, (first, second), category))
    return pairs


def _read_mat(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the arrays of a MATLAB file. Raise FileError if it is broken or lacks one of them."""
    from scipy.io import loadmat  # loading it takes long

    content = read_bytes(path)
    try:
        arrays: dict[str, Any] = loadmat(io.BytesIO(content))
    except Exception as error:  # SciPy does not document what broken files raise
        raise FileError(f"is not a MATLAB file: {error}") from error
    for name in names:
        if name not in arrays:
            raise FileError(f"has no `{name}`")
    return arrays


def _value(cell: Any) -> Any:
    """Return the text or number in nested arrays of one element, as MATLAB's cells are read."""
    while isinstance(cell, np.ndarray) and cell.size:
        cell = cell.flat[0]
    return cell
