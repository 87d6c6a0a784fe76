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

_MOST_FILES = 5  # files of edited results that a warning names
_HASH_LENGTH = 8  # characters of a hash in a label
_LONGEST_NAME = 40  # characters of a name that is not shortened

EDITED_RECORD, EDITED_SAMPLES, EDITED_METRICS = "edited record", "edited samples", "edited metrics"
"""What `StoredResult.contradiction` and tables say of results that are not what was measured."""

_REASONS_BY_FAULT = {
    EDITED_RECORD: "the file was edited after it was written",
    EDITED_SAMPLES: "the samples are not those that were stored with the record",
    EDITED_METRICS: "the samples give other metrics than the record",
}


@dataclass(frozen=True)
class StoredResult:
    """A result and the file that it was read from."""

    path: Path
    row: ResultRow
    # Whether the record still has the content whose hash it holds; None if it holds no hash.
    unchanged: bool | None = None
    # How the samples contradict the record, such as EDITED_SAMPLES; empty if they do not.
    contradiction: str = ""
    # Whether the metrics were recomputed from the samples; True if there are no samples.
    recomputed: bool = True
    # Hashes that tell models of one name apart, set by `label_results`.
    notes: tuple[str, ...] = ()
    # All names of the model if its results have several, set by `label_results`. Tables show the
    # first one.
    names: tuple[str, ...] = ()
    # Words that tell several versions of one data set apart, set by `label_results`.
    data_notes: tuple[str, ...] = ()
    # The file to which the result of another model of the same name was moved, set by
    # `store_result`.
    aside: Path | None = None

    @cached_property
    def identity(self) -> ModelIdentity:
        """The names of the model that the result belongs to, and the hash of the model."""
        return model_identity(self.row)

    @property
    def fault(self) -> str:
        """How the result was edited, such as "edited samples"; empty if it was not edited.

        An edited result is neither ranked nor compared.
        """
        return EDITED_RECORD if self.unchanged is False else self.contradiction

    @property
    def is_edited(self) -> bool:
        """True if the record or the samples are not what was measured."""
        return bool(self.fault)

    @property
    def shown_name(self) -> str:
        """The name of the model in tables, without anything in brackets."""
        return self.names[0] if self.names else self.identity.name

    @property
    def model(self) -> str:
        """The label of the model in comparisons, such as "clip (student, weights 1a2b3c4d)".

        It is the same for all results of the model.
        """
        identity = self.identity
        words = [*identity.random_words, *identity.variants, *self.notes]
        return labelled(self.shown_name, words)

    @property
    def model_without_notes(self) -> str:
        """The label of the model without the hashes that tell models of one name apart."""
        return labelled(self.shown_name, [*self.identity.random_words, *self.identity.variants])

    @property
    def label(self) -> str:
        """The label of the model's row in tables.

        It is `model`, with the kind of attention map added if each model has its own kind.
        """
        return labelled(self.shown_name, [*self.row_words, *self.notes])

    @property
    def row_words(self) -> list[str]:
        """The words in brackets that follow the name in `label`, without `notes`."""
        words = self.identity.random_words
        if self.map_kind:
            words.append(self.map_kind)
        return [*words, *self.identity.variants]

    @property
    def map_kind(self) -> str:
        """The kind of attention map that was measured; empty if the protocol requires a kind."""
        provenance = self.row.provenance
        if provenance.get("map") == provenance.get("protocol_map"):
            return ""
        return str(provenance["map"])

    def is_called(self, name: str) -> bool:
        """Return whether `name` is the label, the name or the specification of the model."""
        return name in (self.model, self.identity.name, self.identity.spec)

    @property
    def dataset(self) -> str:
        """The label of the data set's column in tables, such as "coco (revision 1a2b3c4d)"."""
        return labelled(self.row.dataset, list(self.data_notes))

    @property
    def cell(self) -> tuple[str, str, str]:
        """The place of the result in tables: its row, its column, and its protocol."""
        return self.label, self.dataset, self.row.protocol


_MODEL_WITHOUT_NOTES = attrgetter("model_without_notes")


def label_results(results: Iterable[StoredResult]) -> list[StoredResult]:
    """Return the results with labels that name each model and each data set unambiguously.

    - One model with several names: all its results get the label with the preferred name, unless
      the results under these names differ.
    - Several models with one name: their labels get the hashes in which the models differ, such as
      "clip (weights 1a2b3c4d)" and "clip (weights 5e6f7a8b)".
    - Several versions of one data set: the labels of their columns get what differs, such as
      "coco (revision 1a2b3c4d)".
    """
    labelled_results = _add_data_notes(list(results))
    labelled_results = _add_names(labelled_results)
    return _add_model_notes(labelled_results)


def _add_data_notes(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `data_notes`, which tell versions of a data set apart.

    A note is the name and value of a field of `data_identity`, such as "revision 1a2b3c4d". A field
    has a note only if it has several values among the results of the data set.
    """
    # Collect the values of each field. Edited results do not count.
    values_by_field: dict[tuple[object, ...], set[str]] = {}
    for result in results:
        dataset_key = _dataset_key(result.row)
        for field, value in data_identity(result.row).items():
            field_values = values_by_field.setdefault((*dataset_key, field), set())
            if value and not result.is_edited:
                field_values.add(value)

    noted_results = []
    for result in results:
        dataset_key = _dataset_key(result.row)
        notes = []
        for field, value in data_identity(result.row).items():
            if len(values_by_field[(*dataset_key, field)]) > 1:
                short_value = value if field == "repository" else value[:_HASH_LENGTH]
                notes.append(f"{field} {short_value or 'not recorded'}")
        noted_results.append(replace(result, data_notes=tuple(notes)))
    return noted_results


def _dataset_key(row: ResultRow) -> tuple[object, ...]:
    """Return what names the samples of a result: task, data set, protocol, and how many there are.

    Results with equal keys should have equal samples, unless the files of the data set differ.
    """
    limit, partial = row.provenance["limit"], row.provenance.get("partial")
    return row.task, row.dataset, row.protocol, limit, partial


def _add_names(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `names`, which are all names of a model, the preferred one first.

    `names` stays empty for a model with a single name, and for a model whose results under several
    names contradict each other.
    """
    names_by_model: dict[str, tuple[str, ...]] = {}
    for sha256, model_results in _group_by_model(results).items():
        names = _names_by_preference(model_results)
        if len(names) > 1 and _have_equal_repeats(model_results):
            names_by_model[sha256] = names
    named_results = []
    for result in results:
        result_names: tuple[str, ...] = ()
        if not result.is_edited:
            result_names = names_by_model.get(result.identity.sha256, ())
        named_results.append(replace(result, names=result_names))
    return named_results


def _add_model_notes(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `notes`, which tell models of one name apart, or mark edited results.

    A note is a component in which the models differ and its hash, such as "weights 1a2b3c4d". The
    note of an edited result is its fault, such as "edited samples".
    """
    components_by_label = _differing_components(results)
    noted_results = []
    for result in results:
        if result.is_edited:
            notes = [result.fault]
        else:
            hashes = component_hashes(result.row)
            components = components_by_label[result.model_without_notes]
            notes = [f"{component} {hashes[component][:_HASH_LENGTH]}" for component in components]
        noted_results.append(replace(result, notes=tuple(notes)))
    return noted_results


def _group_by_model(results: Iterable[StoredResult]) -> dict[str, list[StoredResult]]:
    """Return the unedited results by the hash of their model."""
    return _group_unedited(results, attrgetter("identity.sha256"))


def _group_unedited(
    results: Iterable[StoredResult], key: Callable[[StoredResult], str]
) -> dict[str, list[StoredResult]]:
    """Return the unedited results by the text that `key` returns for each of them."""
    results_by_key: dict[str, list[StoredResult]] = {}
    for result in results:
        if not result.is_edited:
            results_by_key.setdefault(key(result), []).append(result)
    return results_by_key


def _differing_components(results: Iterable[StoredResult]) -> dict[str, list[str]]:
    """Return the components in which models with the same label differ, by label.

    Components are the parts of a model that have a hash, such as its weights and its code. Example:
    {"clip": ["weights"], "siglip": []} if two models with other weights are called "clip".
    """
    components_by_label = {}
    for label, same_label_results in _group_unedited(results, _MODEL_WITHOUT_NOTES).items():
        hashes_of_results = [component_hashes(result.row) for result in same_label_results]
        differing_components = []
        for component in hashes_of_results[0]:
            distinct_hashes = {hashes[component] for hashes in hashes_of_results}
            if len(distinct_hashes) > 1:
                differing_components.append(component)
        components_by_label[label] = differing_components
    return components_by_label


def _names_by_preference(results: Iterable[StoredResult]) -> tuple[str, ...]:
    """Return the names under which a model has results, the preferred name first.

    Names that users chose come before specifications such as "openclip:ViT-B-32/openai". Short
    names come before long ones.
    """
    chosen_names: set[str] = set()
    specs: set[str] = set()
    for result in results:
        if "name" in result.row.model:
            chosen_names.add(result.identity.name)
        else:
            specs.add(result.identity.name)
    sorted_chosen_names = sorted(chosen_names, key=_length_and_name)
    sorted_specs = sorted(specs, key=_length_and_name)
    return (*sorted_chosen_names, *sorted_specs)


def _length_and_name(name: str) -> tuple[int, str]:
    """Return the sort key by which short names come first, and equally long ones by alphabet."""
    return len(name), name


def _have_equal_repeats(results: Iterable[StoredResult]) -> bool:
    """Return whether all results of a model with equal settings have equal metrics.

    Results have equal settings if tables show them in the same cell.
    """
    first_rows: dict[tuple[object, ...], ResultRow] = {}
    for result in results:
        cell = tuple(result.row_words), result.dataset, result.row.protocol
        first_row = first_rows.setdefault(cell, result.row)
        if not _have_same_metrics(first_row, result.row):
            return False
    return True


def _have_same_metrics(first: ResultRow, second: ResultRow) -> bool:
    """Return whether two results have the same metrics on the same samples.

    Samples are compared by the hashes in the provenance. The hash of their content counts only if
    both results have it.
    """
    if (first.metrics, first.n_samples) != (second.metrics, second.n_samples):
        return False
    first_hashes = dict(first.provenance["hashes"])
    second_hashes = dict(second.provenance["hashes"])
    if not (first_hashes.get(CONTENT) and second_hashes.get(CONTENT)):
        # A result of an older version has no hash of the content.
        first_hashes.pop(CONTENT, None)
        second_hashes.pop(CONTENT, None)
    return first_hashes == second_hashes


def distinct_results(results: Iterable[StoredResult]) -> list[StoredResult]:
    """Return the first result of each cell of a table, without equal results that repeat it.

    A cell is a model, a data set and a protocol. Raises UsageError if two results of one cell
    differ, since a table can show only one of them.
    """
    results_by_cell: dict[tuple[str, str, str], StoredResult] = {}
    for result in results:
        first_result = results_by_cell.setdefault(result.cell, result)
        if not _have_same_metrics(first_result.row, result.row):
            cell = f"{result.label} on {result.row.dataset} ({result.row.protocol})"
            message = f"two results of {cell}: keep one of the files"
            # Results that were never written, such as those of tests, have an empty path.
            if first_result.path.name and result.path.name:
                message += f" {first_result.path} and {result.path}"
            raise UsageError(message)
    return list(results_by_cell.values())


def result_warnings(results: Iterable[StoredResult]) -> list[str]:
    """Return the warnings that readers of results should see, one line each.

    They are about names that several models share, models that have several names, edited results,
    and results whose metrics were not recomputed. The results must come from `label_results`.
    """
    results = list(results)
    warnings = [*_shared_name_warnings(results), *_several_names_warnings(results)]

    # Edited results, with one line for each way of editing.
    for fault, reason in _REASONS_BY_FAULT.items():
        edited_results = [result for result in results if result.fault == fault]
        file_names = list(dict.fromkeys(result.path.name for result in edited_results))
        if file_names:
            files = first_of(file_names, _MOST_FILES)
            warnings.append(f"not ranked and not compared, since {reason}: {files}")

    n_unchecked = sum(not result.recomputed for result in results)
    if n_unchecked > 0:
        warnings.append(
            f"the metrics of {n_unchecked:,} of {len(results):,} results, whose samples are large, "
            "were not recomputed: `cosmos-eval verify` does"
        )
    return warnings


def _shared_name_warnings(results: list[StoredResult]) -> list[str]:
    """Return one line for each name that several models share, with the components that differ."""
    results_by_label = _group_unedited(results, _MODEL_WITHOUT_NOTES)
    components_by_label = _differing_components(result for result in results if result.notes)
    lines = []
    for label, components in sorted(components_by_label.items()):
        if components:
            n_models = len(_group_by_model(results_by_label[label]))
            lines.append(
                f"{n_models} models are called {label}: their {' and '.join(components)} "
                "differ, and each has a row of its own"
            )
    return lines


def _several_names_warnings(results: list[StoredResult]) -> list[str]:
    """Return one line for each model that has results under several names."""
    consequences_by_names: dict[tuple[str, ...], str] = {}

    # Models whose results agree share the first name.
    for result in results:
        if result.names:
            consequences_by_names[result.names] = f", and is called {result.names[0]}"

    # Models whose results differ keep all their names.
    results_without_names = [result for result in results if not result.names]
    for model_results in _group_by_model(results_without_names).values():
        names = _names_by_preference(model_results)
        if len(names) > 1:
            consequence = ", under which its results differ: each has a row of its own"
            consequences_by_names[names] = consequence

    lines = []
    for names, consequence in sorted(consequences_by_names.items()):
        lines.append(f"one model has the names {', '.join(names)}{consequence}")
    return lines


def repeat_notes(results: Iterable[StoredResult]) -> list[str]:
    """Return a list with one line that counts the results which `distinct_results` leaves out.

    The list is empty if `distinct_results` leaves out none.
    """
    cells = [result.cell for result in results]
    n_repeats = len(cells) - len(set(cells))
    if n_repeats == 0:
        return []
    return [
        f"left out: {n_repeats} results that repeat another one of the same model, data set and "
        "protocol"
    ]


def shorten_names(names: Iterable[str], longest: int = _LONGEST_NAME) -> dict[str, str]:
    """Return a short form of each name, by name.

    A name of more than `longest` characters loses as many of its first folders as possible, but
    never becomes the same as another name: with another file /data/run/b/last.pt,
    "cosmos:/data/run/a/last.pt (student)" -> "cosmos:.../a/last.pt (student)".
    """
    forms_by_name = {name: _forms_without_folders(name) for name in names}
    counts = Counter(form for forms in forms_by_name.values() for form in forms)
    short_names = {}
    for name, forms in forms_by_name.items():
        short_names[name] = name
        unique_forms = [form for form in forms if counts[form] == 1]
        if len(name) > longest and unique_forms:
            short_names[name] = unique_forms[0]
    return short_names


def _forms_without_folders(name: str) -> list[str]:
    """Return the forms of a name without the first folders of its path, the shortest form first.

    Example: "cosmos:/data/run/last.pt" -> ["cosmos:.../last.pt", "cosmos:.../run/last.pt"]. Forms
    that are not shorter than the name are left out.
    """
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
