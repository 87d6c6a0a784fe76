"""Labels of models and data sets in tables: one label per model, and one model per label."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from cosmos_core.utils.text import first_of
from cosmos_eval.results.identity import (
    CONTENT,
    ModelIdentity,
    component_hashes,
    data_identity,
    labelled,
    model_identity,
)
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import UsageError

_FILES = 5  # of edited results that a warning names
_HASH = 8  # characters of a hash in a label
_LONGEST = 40  # characters of a name that is not shortened

EDITED_RECORD, EDITED_SAMPLES, EDITED_METRICS = "edited record", "edited samples", "edited metrics"
"""The words of `Stored.contradiction` and tables for results that are not what was measured."""

_REASONS = {
    EDITED_RECORD: "the file was edited after it was written",
    EDITED_SAMPLES: "the samples are not those that were stored with the record",
    EDITED_METRICS: "the samples give other metrics than the record",
}


@dataclass(frozen=True)
class Stored:
    """A result and the file that it was read from."""

    path: Path
    row: ResultRow
    # Whether the record still has the content whose hash it holds; None if it holds no hash.
    unchanged: bool | None = None
    # How the samples contradict the record, such as EDITED_SAMPLES; empty if they do not.
    contradiction: str = ""
    # Whether the metrics were recomputed from the samples; True if there are no samples.
    recomputed: bool = True
    # Hashes that tell models of one name apart, set by `distinguish`.
    notes: tuple[str, ...] = ()
    # All names of the model if its results have several, set by `distinguish`. Tables show the
    # first one.
    names: tuple[str, ...] = ()
    # Words that tell several versions of one data set apart, set by `distinguish`.
    data_notes: tuple[str, ...] = ()
    # The file to which the result of another model of the same name was moved, set by
    # `store_result`.
    aside: Path | None = None

    @cached_property
    def identity(self) -> ModelIdentity:
        """The names of the model in the result, and the model's hash."""
        return model_identity(self.row)

    @property
    def fault(self) -> str:
        """Why the result is not ranked and not compared; empty if it was not edited."""
        return EDITED_RECORD if self.unchanged is False else self.contradiction

    @property
    def is_edited(self) -> bool:
        return bool(self.fault)

    @property
    def shown_name(self) -> str:
        """The name of the model in tables, without the words in brackets."""
        return self.names[0] if self.names else self.identity.name

    @property
    def model(self) -> str:
        """The label of the model in comparisons, which is the same for all its results."""
        identity = self.identity
        words = [*identity.random_words, *identity.variants, *self.notes]
        return labelled(self.shown_name, words)

    @property
    def model_without_notes(self) -> str:
        """The label of the model without the notes that tell models of one name apart."""
        return labelled(self.shown_name, [*self.identity.random_words, *self.identity.variants])

    @property
    def label(self) -> str:
        """The label of the model's row in tables. Unlike `model`, it has the kind of map if the
        protocol leaves that open."""
        return labelled(self.shown_name, [*self.row_words, *self.notes])

    @property
    def row_words(self) -> list[str]:
        """The words that the label of the row has in brackets, without notes."""
        words = self.identity.random_words
        if self.map_kind:
            words.append(self.map_kind)
        return [*words, *self.identity.variants]

    @property
    def map_kind(self) -> str:
        """The kind of attention map that was measured; empty if the protocol sets the kind."""
        provenance = self.row.provenance
        if provenance.get("map") == provenance.get("protocol_map"):
            return ""
        return str(provenance["map"])

    def is_called(self, name: str) -> bool:
        """Return whether a user may mean the model by its label, name or specification."""
        return name in (self.model, self.identity.name, self.identity.spec)

    @property
    def dataset(self) -> str:
        """The label of the data set's column in tables."""
        return labelled(self.row.dataset, list(self.data_notes))

    @property
    def cell(self) -> tuple[str, str, str]:
        """The row, the column and the protocol of the table that show the result."""
        return self.label, self.dataset, self.row.protocol


_MODEL_WITHOUT_NOTES = attrgetter("model_without_notes")


def distinguish(results: Iterable[Stored]) -> list[Stored]:
    """Return the same results, labelled so that a label is one model and a model has one label.

    If results have several names for one model, its label has the first of them, unless its results
    contradict each other. If several models have one name, their labels have the hashes of what
    differs, such as the weights. In the same way, versions of a data set get different labels.
    """
    return _with_notes(_with_names(_with_data_notes(list(results))))


def _with_data_notes(results: list[Stored]) -> list[Stored]:
    """Return results with notes that tell versions of a data set apart.

    A note names a field of `data_identity`, such as the revision, and its value. Only fields that
    have several values among the results of a data set have notes.
    """
    values: dict[tuple[object, ...], set[str]] = {}
    for result in results:
        for field, value in data_identity(result.row).items():
            field_values = values.setdefault((*_samples_key(result.row), field), set())
            if value and not result.is_edited:
                field_values.add(value)
    labelled_results = []
    for result in results:
        notes = []
        for field, value in data_identity(result.row).items():
            if len(values[(*_samples_key(result.row), field)]) > 1:
                short_value = value if field == "repository" else value[:_HASH]
                notes.append(f"{field} {short_value or 'not recorded'}")
        labelled_results.append(replace(result, data_notes=tuple(notes)))
    return labelled_results


def _samples_key(row: ResultRow) -> tuple[object, ...]:
    """Return the settings that are equal for results on samples of the same names."""
    limit, partial = row.provenance["limit"], row.provenance.get("partial")
    return row.task, row.dataset, row.protocol, limit, partial


def _with_names(results: list[Stored]) -> list[Stored]:
    """Add all names of a model to its results, if it has several and its results agree."""
    names: dict[str, tuple[str, ...]] = {}
    for sha256, model_results in _group_by_model(results).items():
        model_names = _names_by_preference(model_results)
        if len(model_names) > 1 and _have_equal_repeats(model_results):
            names[sha256] = model_names
    named_results = []
    for result in results:
        result_names = () if result.is_edited else names.get(result.identity.sha256, ())
        named_results.append(replace(result, names=result_names))
    return named_results


def _with_notes(results: list[Stored]) -> list[Stored]:
    """Add the hashes that tell models of one label apart, or why a result is not ranked."""
    components = _differing_components(results)
    noted_results = []
    for result in results:
        if result.is_edited:
            notes = [result.fault]
        else:
            hashes = component_hashes(result.row)
            differing = components[result.model_without_notes]
            notes = [f"{component} {hashes[component][:_HASH]}" for component in differing]
        noted_results.append(replace(result, notes=tuple(notes)))
    return noted_results


def _group_by_model(results: Iterable[Stored]) -> dict[str, list[Stored]]:
    """Group the results that are not edited by the hash of their model."""
    return _group_unedited(results, attrgetter("identity.sha256"))


def _group_unedited(
    results: Iterable[Stored], key: Callable[[Stored], str]
) -> dict[str, list[Stored]]:
    """Group the results that are not edited by a key."""
    groups: dict[str, list[Stored]] = {}
    for result in results:
        if not result.is_edited:
            groups.setdefault(key(result), []).append(result)
    return groups


def _differing_components(results: Iterable[Stored]) -> dict[str, list[str]]:
    """Return, for each label that models may share, the components in which these models differ."""
    differing = {}
    for label, label_results in _group_unedited(results, _MODEL_WITHOUT_NOTES).items():
        hashes = [component_hashes(result.row) for result in label_results]
        differing[label] = [
            component
            for component in hashes[0]
            if len({model_hashes[component] for model_hashes in hashes}) > 1
        ]
    return differing


def _names_by_preference(results: Iterable[Stored]) -> tuple[str, ...]:
    """Return the names that results have for their common model, the best one first.

    Names that users gave come before specifications, and short names before long ones.
    """
    given_names: set[str] = set()
    specs: set[str] = set()
    for result in results:
        names = given_names if "name" in result.row.model else specs
        names.add(result.identity.name)
    sorted_given_names = sorted(given_names, key=_length_and_text)
    sorted_specs = sorted(specs, key=_length_and_text)
    return (*sorted_given_names, *sorted_specs)


def _length_and_text(name: str) -> tuple[int, str]:
    """Return the sort key by which short names come first."""
    return len(name), name


def _have_equal_repeats(results: Iterable[Stored]) -> bool:
    """Return whether results of a model for the same cell of a table are always equal."""
    rows: dict[tuple[object, ...], ResultRow] = {}
    for result in results:
        cell = tuple(result.row_words), result.dataset, result.row.protocol
        if not _have_same_metrics(rows.setdefault(cell, result.row), result.row):
            return False
    return True


def _have_same_metrics(first: ResultRow, second: ResultRow) -> bool:
    """Return whether two results have the same metrics on the same samples."""
    if (first.metrics, first.n_samples) != (second.metrics, second.n_samples):
        return False
    first_hashes = dict(first.provenance["hashes"])
    second_hashes = dict(second.provenance["hashes"])
    if not (first_hashes.get(CONTENT) and second_hashes.get(CONTENT)):
        # A result of an older version has no hash of the content.
        first_hashes.pop(CONTENT, None)
        second_hashes.pop(CONTENT, None)
    return first_hashes == second_hashes


def distinct(results: Iterable[Stored]) -> list[Stored]:
    """Return results without those that repeat another result of the same model.

    Raises UsageError if two results belong into the same cell of a table and differ.
    """
    distinct_results: dict[tuple[str, str, str], Stored] = {}
    for result in results:
        first = distinct_results.setdefault(result.cell, result)
        if not _have_same_metrics(first.row, result.row):
            cell = f"{result.label} on {result.row.dataset} ({result.row.protocol})"
            files = f" {first.path} and {result.path}"
            has_files = first.path.name and result.path.name
            raise UsageError(
                f"two results of {cell}: keep one of the files{files if has_files else ''}"
            )
    return list(distinct_results.values())


def warnings_of(results: Iterable[Stored]) -> list[str]:
    """Return warnings on labelled results, one line each.

    Readers are warned of names that several models share, of models with several names, of edited
    results, and of results whose metrics were not recomputed.
    """
    results = list(results)
    return [
        *_shared_name_warnings(results),
        *_several_names_warnings(results),
        *_edit_warnings(results),
        *_not_recomputed_warnings(results),
    ]


def _shared_name_warnings(results: list[Stored]) -> list[str]:
    """Return a line for each name that several models share."""
    results_by_label = _group_unedited(results, _MODEL_WITHOUT_NOTES)
    components = _differing_components(result for result in results if result.notes)
    lines = []
    for label, differing in sorted(components.items()):
        if differing:
            n_models = len(_group_by_model(results_by_label[label]))
            lines.append(
                f"{n_models} models are called {label}: their {' and '.join(differing)} "
                "differ, and each has a row of its own"
            )
    return lines


def _several_names_warnings(results: list[Stored]) -> list[str]:
    """Return a line for each model that results call by several names."""
    consequences = {
        result.names: f", and is called {result.names[0]}" for result in results if result.names
    }
    unnamed_results = [result for result in results if not result.names]
    for model_results in _group_by_model(unnamed_results).values():
        names = _names_by_preference(model_results)
        if len(names) > 1:
            consequences[names] = ", under which its results differ: each has a row of its own"
    return [
        f"one model has the names {', '.join(names)}{consequence}"
        for names, consequence in sorted(consequences.items())
    ]


def _edit_warnings(results: list[Stored]) -> list[str]:
    """Return a line for each way in which results were edited."""
    lines = []
    for fault, reason in _REASONS.items():
        names = list(dict.fromkeys(result.path.name for result in results if result.fault == fault))
        if names:
            lines.append(f"not ranked and not compared, since {reason}: {first_of(names, _FILES)}")
    return lines


def _not_recomputed_warnings(results: list[Stored]) -> list[str]:
    """Return a line on the results whose metrics were not recomputed, if there are any."""
    n_unchecked = sum(not result.recomputed for result in results)
    if n_unchecked == 0:
        return []
    return [
        f"the metrics of {n_unchecked:,} of {len(results):,} results, whose samples are large, "
        "were not recomputed: `cosmos-eval verify` does"
    ]


def repeats_of(results: Iterable[Stored]) -> list[str]:
    """Return a line with the number of results that `distinct` leaves out; empty without any."""
    cells = [result.cell for result in results]
    n_repeats = len(cells) - len(set(cells))
    if n_repeats == 0:
        return []
    return [
        f"left out: {n_repeats} results that repeat another one of the same model, data set and "
        "protocol"
    ]


def shortened(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """Return short forms of names, by name: `cosmos:/data/run/a/last.pt` -> `cosmos:.../a/last.pt`.

    A name of more than `longest` characters loses as many of its first folders as possible without
    becoming the same as another name. The words in brackets behind a path stay.
    """
    short_forms = {name: _without_folders(name) for name in names}
    counts = Counter(form for forms in short_forms.values() for form in forms)
    shortened_names = {}
    for name, forms in short_forms.items():
        unique_forms = [form for form in forms if counts[form] == 1]
        is_short = len(name) <= longest or not unique_forms
        shortened_names[name] = name if is_short else unique_forms[0]
    return shortened_names


def _without_folders(name: str) -> list[str]:
    """Return forms of a name that are shorter by the first folders of its path, shortest first."""
    spec, bracket, words = name.partition(" (")
    kind, colon, path = spec.partition(":")
    folders = path.split("/")
    forms = []
    for n_folders in range(1, len(folders)):
        path_end = "/".join(folders[-n_folders:])
        form = f"{kind}{colon}.../{path_end}{bracket}{words}"
        if len(form) < len(name):
            forms.append(form)
    return forms
