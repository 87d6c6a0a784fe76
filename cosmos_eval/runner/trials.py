"""The scores of a search for one model on disk: of a finished search, and of an unfinished one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_core.utils.files import json_sha256, write_atomically
from cosmos_eval.data.readers import FileError, MissingFileError, parse_json, read_text
from cosmos_eval.results.filenames import safe_name
from cosmos_eval.tasks.segmentation.tuning import PixelCounts, Setting
from cosmos_eval.types import UsageError

_SECONDS_BETWEEN_WRITES = 1.0


class UnfinishedScores(NamedTuple):
    """How far a search was when it was stopped."""

    # The mIoU of each setting; None: not scored yet.
    scores: list[float | None]
    # The counts of the pass over the images that was not finished; None: there is none.
    counts: PixelCounts | None = None


class TrialFiles:
    """The files with the scores of a search for one model.

    `MODEL.trials.json` has all settings and their scores. It is written when all are scored. Until
    then, `MODEL.HASH.partial.json` has the scores so far and the counts of the current pass over
    the images. HASH stands for the first digits of a hash of the search, the model and the code.
    """

    def __init__(self, folder: Path, model: str, identity: Mapping[str, Any]) -> None:
        """Note the names of the files, without reading or writing anything.

        Args:
            folder: The folder of the files.
            model: The name of the model.
            identity: Everything that the scores depend on, as JSON: the model, the search and the
                version of the code.
        """
        self._identity = identity
        self._identity_sha256 = json_sha256(identity)
        self._folder = folder
        self._stem = safe_name(model)
        self._path = folder / f"{self._stem}.trials.json"
        hash_prefix = self._identity_sha256[:12]
        self._partial_path = folder / f"{self._stem}.{hash_prefix}.partial.json"
        # When the unfinished scores were last written, in seconds of `time.monotonic`.
        self._time_of_write = 0.0

    def read_scores(self) -> list[float] | None:
        """Return the mIoU of every setting, or None without a file of a finished search.

        Raises UsageError for a file with another identity, and for a file that was edited.
        """
        path = self._path
        try:
            stored = parse_json(read_text(path))
        except MissingFileError:
            return None
        except FileError as error:
            raise UsageError(f"{path}: {error}") from None

        has_same_identity = isinstance(stored, dict) and all(
            stored.get(name) == value for name, value in self._identity.items()
        )
        if not has_same_identity:
            raise UsageError(
                f"{path} belongs to another search, model or version: choose another --name or "
                "--output"
            )
        if not _is_unchanged(stored):
            raise UsageError(
                f"{path} was edited after it was written, and its scores would decide the choice: "
                "remove it to measure them again"
            )
        return [trial["mIoU"] for trial in stored["trials"]]

    def write_scores(self, settings: Sequence[Setting], scores: Sequence[float]) -> None:
        """Write all settings with their mIoU, and a hash of the content."""
        trials = []
        for setting, score in zip(settings, scores, strict=True):
            trials.append({**setting, "mIoU": score})
        content = {**self._identity, "trials": trials}
        content["sha256"] = json_sha256(content)
        write_atomically(self._path, json.dumps(content, indent=1).encode())

    def read_unfinished(
        self, n_settings: int, report_note: Callable[[str], None]
    ) -> UnfinishedScores:
        """Return the scores of a search that was stopped; without them, no setting is scored.

        Args:
            n_settings: The number of settings of the search.
            report_note: Called with a line for each file that is ignored: a damaged or edited one,
                or one of another search.
        """
        for path in sorted(self._folder.glob("*.partial.json")):
            is_of_model = re.fullmatch(
                rf"{re.escape(self._stem)}\.[0-9a-f]{{12}}\.partial\.json", path.name
            )
            if is_of_model and path != self._partial_path:
                report_note(f"{path} belongs to another search, model or version and is ignored")

        no_scores = UnfinishedScores([None] * n_settings)
        try:
            stored = parse_json(read_text(self._partial_path))
        except MissingFileError:
            return no_scores
        except FileError:
            stored = None
        is_valid = (
            isinstance(stored, dict)
            and _is_unchanged(stored)
            and stored.get("search") == self._identity_sha256
        )
        if not is_valid:
            report_note(f"{self._partial_path} is damaged or was edited, and is ignored")
            return no_scores

        counts = None
        if stored["images"]:
            counts = PixelCounts(stored["images"], np.array(stored["areas"], np.int64))
        return UnfinishedScores(stored["scores"], counts)

    def write_unfinished(self, unfinished: UnfinishedScores) -> None:
        """Write the scores and counts of an unfinished search, with a hash of the content.

        Nothing is written if counts were written within the last second. So this method can be
        called after every image.
        """
        now = time.monotonic()
        counts = unfinished.counts
        if counts is not None and now - self._time_of_write < _SECONDS_BETWEEN_WRITES:
            return
        content: dict[str, Any] = {
            "search": self._identity_sha256,
            "scores": unfinished.scores,
            "images": 0 if counts is None else counts.n_images,
            "areas": [] if counts is None else counts.areas.tolist(),
        }
        content["sha256"] = json_sha256(content)
        write_atomically(self._partial_path, json.dumps(content).encode())
        self._time_of_write = now

    def remove_unfinished(self) -> None:
        """Remove the unfinished scores of this search."""
        self._partial_path.unlink(missing_ok=True)


def _is_unchanged(stored: Mapping[str, Any]) -> bool:
    """Return whether the content of a file has the hash `sha256` that was written with it."""
    content = {name: value for name, value in stored.items() if name != "sha256"}
    try:
        return json_sha256(content) == stored.get("sha256")
    except ValueError:  # a number that is too large for a float
        return False
