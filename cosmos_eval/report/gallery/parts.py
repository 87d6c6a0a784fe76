"""What the kinds of examples have in common: choose, ask models, then draw. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from cosmos_eval.data.user_yaml import FAMILY as USER
from cosmos_eval.report.gallery.drafts import Draft
from cosmos_eval.report.gallery.results import Group, Shown, listed
from cosmos_eval.results.labels import model_label
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import OnProgress, Precision, RunOptions, UsageError

if TYPE_CHECKING:
    # At run time it would import torch.
    from cosmos_eval.models.encoder import Encoder

Key = tuple[str, str, str]
"""Kind, where and label of a need, which tell it from all others."""

Answers = Mapping[Key, Any]
"""What models answered; without what could not be answered."""

MAPS = "label maps"
"""The kind of need that runs can keep."""

PAIRS = 3
"""Images with a text, at most, of a data set."""

# Of places in a row: both ends, the middle, the quarters.
_PLACES = (1.0, 0.0, 0.5, 0.75, 0.25)


class Model(NamedTuple):
    """What has to be loaded to repeat a result; as results have it."""

    spec: str
    architecture: str
    weights: str | None
    weights_sha256: str | None
    random: bool
    precision: Precision


class Need(NamedTuple):
    """A question to a model. `label` is its name, `kind` and `where` say what is asked for.

    `answer` raises UsageError where the model does not have it.
    """

    model: Model
    label: str
    kind: str
    where: str
    answer: Callable[[Encoder, OnProgress], Any]

    @property
    def key(self) -> Key:
        """Where its answer is found."""
        return self.kind, self.where, self.label


class Pair(NamedTuple):
    """An image of a data set and a text about it.

    `image` gives it as RGB; raises UsageError where it cannot be used.
    """

    dataset: str
    name: str
    image: Callable[[], Image.Image]
    text: str


class Drafted(NamedTuple):
    """Examples to be drawn, and a line for each thing that cannot be."""

    drafts: Sequence[Draft]
    notes: Sequence[str]


class Part(NamedTuple):
    """What is shown of a data set: needed of models, and with their answers drafted.

    `pairs` are a few of its images with texts that models can look for in them.
    """

    notes: Sequence[str]
    needs: Sequence[Need] = ()
    finish: Callable[[Answers], Drafted] = lambda answers: Drafted((), ())
    pairs: Sequence[Pair] = ()


class Opened(NamedTuple):
    """Results with the data that they were measured on, and a line for those without."""

    results: Sequence[tuple[Shown, Any]]
    notes: Sequence[str]


def model_of(row: ResultRow) -> Model:
    """The model of a result, and in which precision it was measured."""
    model = row.model
    return Model(
        model["spec"],
        model["architecture"],
        model["weights"],
        model["weights_sha256"],
        model["random"],
        row.provenance["precision"],
    )


def name_of(shown: Shown) -> str:
    """What tables call a model, without what concerns the measurement alone."""
    rest = {name: value for name, value in shown.row.provenance.items() if name != "partial"}
    row = replace(shown.row, provenance={**rest, "limit": None, "attention": None})
    return model_label(row, shown.stored.notes)


def opened(
    group: Group,
    options: RunOptions,
    open_data: Callable[[Any, RunOptions], Any],
    is_of: Callable[[Any, Shown], bool],
) -> Opened:
    """Open the data of every result of a group, as many samples as it was limited to.

    `is_of` tells whether a result was measured on what was opened.
    """
    data: dict[RunOptions, Any] = {}
    faults, results, foreign = [], [], []
    for own in dict.fromkeys(_measured(shown.row, options) for shown in group.results):
        try:
            data[own] = open_data(group.protocol, own)
        except UsageError as error:
            faults.append(fault(group, error))
    for shown in group.results:
        found = data.get(_measured(shown.row, options))
        if found is not None and is_of(found, shown):
            results.append((shown, found))
        elif found is not None:
            foreign.append(shown.label)
    return Opened(results, [*dict.fromkeys(faults), *other_data(group, foreign)])


def _measured(row: ResultRow, options: RunOptions) -> RunOptions:
    """The options that lead to the samples of a result; whether these are the same is compared."""
    limit = row.provenance["limit"]
    return replace(options, limit=limit, allow_partial=limit is None)


def fault(group: Group, error: UsageError) -> str:
    """The line on data that cannot be read."""
    dataset = group.protocol.dataset
    said = str(error).removeprefix(f"{dataset}: ")
    more = "" if group.protocol.family == USER else f" (see `cosmos-eval data doctor {dataset}`)"
    return f"{group.name}: no pictures: {said}{more}"


def other_data(group: Group, labels: Sequence[str]) -> list[str]:
    """The line on results of other data than are there, none for no results."""
    if not labels:
        return []
    return [
        f"{group.name}: no pictures of {listed(labels)}: measured on other images, captions or "
        "classes than are there now"
    ]


def spread(n: int, most: int) -> list[int]:
    """A few places of n in a row: the last, the first, the middle, the quarters."""
    places = (round(part * (n - 1)) for part in _PLACES)
    return list(dict.fromkeys(places))[:most] if n else []
