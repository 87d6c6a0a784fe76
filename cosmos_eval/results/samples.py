"""What a result holds of every sample, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_eval.results.store import read_files, samples_of
from cosmos_eval.tasks import task_named
from cosmos_eval.tasks.task import NAME

if TYPE_CHECKING:
    import pandas as pd


def load_samples(result: str | Path) -> pd.DataFrame:
    """Return the samples of a stored result as a table, in the order of the data set.

    `result` is its JSON file, such as those in the column `file` of `load_results`. There is one
    row per image, of retrieval per query, of localisation and several classes per image and class.
    Columns: `image`, its name in the data set, which results of older versions lack, and by task

    - cls: `label`, `prediction`, `score` (the probability of the prediction), `rank` of the label
      (missing below the fifth), `group`
    - retrieval: `query` (image or caption), `caption` (its number within the image), `rank` of the
      image's best caption, or of the caption's image
    - seg: `pixel_accuracy`, `mIoU`
    - select: `correct`, `subset`, `chance`...; assoc: `cue`, `jaccard`, `candidates`
    - multilabel: `class`, `label`, `score`, `rank` of the image for the class
    - loc: `class`, `thing_pixels`, `mass`, `hit`, `auc`, `other_names`
    - probe: `label`, `linear`, `neighbours`; faces: `age`, `age_prediction`...

    Raises UsageError for what is no result, for samples that were edited or are missing, and for a
    task that is not installed."""
    import pandas as pd

    path = Path(result)
    stored = read_files(path)
    samples, task = samples_of(path, stored), task_named(stored.row.task)
    if task.columns is None:
        n = len(samples[task.per_sample or task.truth[0]])
        own = {name: array for name, array in samples.items() if array.shape == (n,)}
    else:
        own = dict(task.columns(samples))
    if NAME in samples and "image" not in own:
        own = {"image": own.pop(NAME, samples[NAME]), **own}
    table = pd.DataFrame(own)
    whole = [name for name in ("rank", "caption") if name in table]
    return table.astype(dict.fromkeys(whole, "Int64"))
