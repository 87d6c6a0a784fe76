"""Labels of models and data sets in tables: one label per model, and one model per label."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from cosmos_core.utils.text import first_of
from cosmos_eval.results.identity import (
    CONTENT,
    ModelIdentity,
    component_hashes,
    data_identity,
    is_stopped,
    labelled,
    model_identity,
)
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.settings import TEXT_WEIGHT, column_fields
from cosmos_eval.types import UsageError, wording_name

_MOST_FILES = 5  # files of edited results that a warning names
_HASH_LENGTH = 8  # characters of a hash in a label
# Fields whose values are shown as they are. Others are hashes, which are cut.
_WHOLE_FIELDS = ("repository", "attention", TEXT_WEIGHT)
_LONGEST_NAME = 40  # characters of a name that is not shortened

EDITED_RECORD, EDITED_SAMPLES, EDITED_METRICS = "edited record", "edited samples", "edited metrics"
"""The faults that mark a result in tables whose files were edited after it was measured."""

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
    # The lab that measured the result; empty unless `assign_labs` named it.
    lab: str = ""
    # Whether labels name the lab, since labs have different numbers of the model, set by
    # `label_results`.
    names_lab: bool = False
    # Hashes that tell models of one name apart, set by `label_results`.
    notes: tuple[str, ...] = ()
    # All names of the model if its results have several, set by `label_results`. Tables show the
    # first one.
    names: tuple[str, ...] = ()
    # The hash of the model that `label_results` sets, which all results of the model share.
    shared_sha256: str = ""
    # Words that tell several versions of one data set apart, set by `label_results`.
    data_notes: tuple[str, ...] = ()
    # Words that tell results on the same data with other settings apart, also set there.
    setting_notes: tuple[str, ...] = ()
    # The new path of a result of another model with the same name, which `store_result` renamed to
    # make room for this result. None if there was no such result.
    displaced_path: Path | None = None

    @cached_property
    def identity(self) -> ModelIdentity:
        """The names of the model that the result belongs to, and the hash of the model."""
        return model_identity(self.row)

    @property
    def model_sha256(self) -> str:
        """The hash that all labelled results of the model share, also of its copies in other files.

        For a result without labels, it is the hash of its own identity.
        """
        return self.shared_sha256 or self.identity.sha256

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
        words = [*self.identity.random_words, *self.identity.variants, *self.notes]
        return labelled(self.shown_name, [*words, *self._lab_words])

    @property
    def _lab_words(self) -> list[str]:
        """The name of the lab, if labels contain it."""
        return [self.lab] if self.names_lab else []

    @property
    def model_without_notes(self) -> str:
        """The label `model` without the notes that tell models of one name apart.

        Example: "clip (student)" if `model` is "clip (student, weights 1a2b3c4d)".
        """
        return labelled(self.shown_name, [*self.identity.random_words, *self.identity.variants])

    @property
    def label(self) -> str:
        """The label of the model's row in tables, such as "clip (cross-attention, student)".

        It is `model`, with the kind of attention map added if the protocol lets each model choose
        its own kind.
        """
        return labelled(self.shown_name, [*self.row_words, *self.notes, *self._lab_words])

    @property
    def row_words(self) -> list[str]:
        """The words in brackets that follow the name in `label`, without `notes`.

        Example: ["cross-attention", "student"] for a map of the cross-attention of a student.
        """
        map_words = [self.map_kind] if self.map_kind else []
        return [*self.identity.random_words, *map_words, *self.identity.variants]

    @property
    def map_kind(self) -> str:
        """The kind of attention map that was measured, such as "cross-attention".

        It is empty if the protocol requires a kind, and if the task measures no maps.
        """
        provenance = self.row.provenance
        measured_kind = provenance.get("map")
        required_kind = provenance.get("protocol_map")
        return "" if measured_kind == required_kind else str(measured_kind)

    def is_called(self, name: str) -> bool:
        """Return whether `name` is the label, the name or the specification of the model."""
        return name in (self.model, self.identity.name, self.identity.spec)

    @property
    def dataset(self) -> str:
        """The label of the data set's column in tables, such as "coco (revision 1a2b3c4d)"."""
        return labelled(self.row.dataset, [*self.data_notes, *self.setting_notes])

    @property
    def data_version(self) -> str:
        """The data set and its version, without settings that differ from the protocol."""
        return labelled(self.row.dataset, self.data_notes)

    @property
    def cell(self) -> tuple[str, str, str]:
        """The place of the result in tables: the labels of its row and column, and its protocol."""
        return self.label, self.dataset, self.row.protocol


def label_results(results: Iterable[StoredResult]) -> list[StoredResult]:
    """Return the results with labels that name each model and each data set unambiguously.

    - One model with several names: all its results get the label with the preferred name, unless
      the results under these names differ.
    - Several models with one name: their labels get the hashes in which the models differ, such as
      "clip (weights 1a2b3c4d)" and "clip (weights 5e6f7a8b)".
    - Several versions of one data set, or other settings on it: the labels of their columns get
      what differs, such as "coco (revision 1a2b3c4d)" or "coco (templates 1a2b3c4d)".
    - One model of which labs have different results: its labels get the lab, such as "clip
      (lab-a)".
    """
    labelled_results = _add_data_notes(
        [_relabel(result, data_notes=(), setting_notes=()) for result in results]
    )
    labelled_results = _add_setting_notes(labelled_results)
    labelled_results = _add_shared_hashes(labelled_results)
    labelled_results = _add_names(labelled_results)
    labelled_results = _add_model_notes(labelled_results)
    return _add_labs(labelled_results)


def _relabel(result: StoredResult, **labels: Any) -> StoredResult:
    """Return a result with other labels, or the result itself if it has these labels already.

    The result keeps its identity, whose hashes would be computed again for every label.

    Args:
        result: The result.
        labels: The values of fields that `identity` does not depend on, by name.
    """
    if all(getattr(result, name) == label for name, label in labels.items()):
        return result
    relabelled_result = replace(result, **labels)
    vars(relabelled_result)["identity"] = result.identity  # as cached_property keeps it
    return relabelled_result


def assign_labs(results: Iterable[StoredResult], directory: Path) -> list[StoredResult]:
    """Return results with their labs, and with labels that name the lab if labs differ.

    A lab is a folder in `directory`, and has the results in this folder and its subfolders.

    Raises:
        UsageError: If a result lies in `directory` itself.
    """
    results_of_labs = []
    for result in results:
        folders = result.path.relative_to(directory).parts[:-1]
        if not folders:
            raise UsageError(
                f"{result.path} belongs to no lab: with --labs, {directory} has one folder per lab"
            )
        results_of_labs.append(replace(result, lab=folders[0]))
    return label_results(results_of_labs)


def count_models(results: Iterable[StoredResult]) -> int:
    """Return the number of models in labelled results, without counting variants of a model.

    Variants differ in how they were measured, such as their attention or precision. The teacher and
    the student of a distillation have different weights, so they are two models.
    """
    models = set()
    for result in results:
        is_student = "student" in result.identity.variants
        # Notes tell models of one name apart. The note of an edited result is its fault.
        notes = () if result.is_edited else result.notes
        models.add((result.shown_name, result.identity.random_words, is_student, notes))
    return len(models)


def _add_data_notes(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `data_notes`, which tell versions of a data set apart.

    A note is the name of a field of `data_identity` and its value, such as "revision 1a2b3c4d".
    """
    notes = _differing_fields(results, [data_identity(result.row) for result in results])
    return [
        _relabel(result, data_notes=result_notes)
        for result, result_notes in zip(results, notes, strict=True)
    ]


def _add_setting_notes(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `setting_notes`, which tell other settings on the same data apart.

    A note is the name of a field of `column_fields` and its value, such as "templates 1a2b3c4d".
    """
    fields, following_fields = [], []
    for result in results:
        all_fields = column_fields(result.row)
        # Queries follow from templates and class names, so a note on them is rarely needed.
        queries = all_fields.pop("queries", None)
        following_fields.append({} if queries is None else {"queries": queries})
        fields.append(all_fields)
    noted_results = results
    for fields_of_results in (fields, following_fields):
        notes = _differing_fields(noted_results, fields_of_results)
        noted_results = [
            _relabel(result, setting_notes=(*result.setting_notes, *result_notes))
            for result, result_notes in zip(noted_results, notes, strict=True)
        ]
    return noted_results


def _differing_fields(
    results: Sequence[StoredResult], fields: Sequence[Mapping[str, str]]
) -> list[tuple[str, ...]]:
    """Return notes on the fields that differ among the results of each column.

    A column has the results of one data set and protocol that have the same notes so far.

    Args:
        results: The results.
        fields: The fields of each result, by name. A value that is not recorded is empty.

    Returns:
        The notes of each result, such as ("revision 1a2b3c4d",).
    """
    # The samples that each result is meant to have. Results with equal keys have equal samples,
    # unless the files of their data sets differ.
    sample_keys = []
    for result in results:
        row = result.row
        limit = row.provenance["limit"]
        partial = row.provenance.get("partial")
        n_stopped = row.n_samples if is_stopped(row) else None
        sample_keys.append((row.task, result.dataset, row.protocol, limit, partial, n_stopped))

    # Collect the values of each field by samples and field. Edited results do not count.
    values_by_field: dict[tuple[object, ...], set[str]] = {}
    for result, sample_key, result_fields in zip(results, sample_keys, fields, strict=True):
        for field, value in result_fields.items():
            field_values = values_by_field.setdefault((sample_key, field), set())
            is_recorded = value != ""
            if is_recorded and not result.is_edited:
                field_values.add(value)

    # Note the fields that have several values.
    notes_of_results = []
    for sample_key, result_fields in zip(sample_keys, fields, strict=True):
        notes = []
        for field, value in result_fields.items():
            has_several_values = len(values_by_field[sample_key, field]) > 1
            if has_several_values:
                short_value = value if field in _WHOLE_FIELDS else value[:_HASH_LENGTH]
                notes.append(f"{field} {short_value or 'not recorded'}")
        notes_of_results.append(tuple(notes))
    return notes_of_results


def _add_shared_hashes(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `shared_sha256`, the same hash for all results of a model.

    Two results belong to one model if their identities have a hash in common, or if other results
    link them: a result with the hashes {a, b} links results with {a} and {b}.
    """
    shared_by_hash: dict[str, str] = {}
    for result in results:
        hashes = sorted(result.identity.hashes)
        linked = [shared_by_hash[sha256] for sha256 in hashes if sha256 in shared_by_hash]
        shared_sha256 = linked[0] if linked else result.identity.sha256
        for sha256 in hashes:
            shared_by_hash.setdefault(sha256, shared_sha256)
        # Several hashes that were shared so far become one.
        if len(set(linked)) > 1:
            for sha256, former_sha256 in shared_by_hash.items():
                if former_sha256 in linked:
                    shared_by_hash[sha256] = shared_sha256
    return [
        _relabel(result, shared_sha256=shared_by_hash[result.identity.sha256]) for result in results
    ]


def _add_names(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `names`, which are all names of a model, the preferred one first.

    `names` stays empty for a model with a single name, and for a model whose results under several
    names contradict each other.
    """
    names_by_model: dict[str, tuple[str, ...]] = {}
    for model_sha256, model_results in _group_unedited(results, "model_sha256").items():
        names = _names_by_preference(model_results)
        if len(names) > 1 and _have_equal_repeats(model_results, within_labs=True):
            names_by_model[model_sha256] = names

    named_results = []
    for result in results:
        result_names: tuple[str, ...] = ()
        if not result.is_edited:
            result_names = names_by_model.get(result.model_sha256, ())
        named_results.append(_relabel(result, names=result_names))
    return named_results


def _add_model_notes(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `notes`, which tell models of one name apart, or mark edited results.

    A note is a component in which the models differ and its hash, such as "weights 1a2b3c4d". The
    note of an edited result is its fault, such as "edited samples".
    """
    components_by_label = _differing_components(results)
    hashes_by_model = _component_hashes_by_model(results)
    noted_results = []
    for result in results:
        notes = []
        if result.is_edited:
            notes.append(result.fault)
        else:
            hashes = hashes_by_model[result.model_sha256]
            for component in components_by_label[result.model_without_notes]:
                notes.append(f"{component} {hashes[component][:_HASH_LENGTH]}")
        noted_results.append(_relabel(result, notes=tuple(notes)))
    return noted_results


def _group_unedited(
    results: Iterable[StoredResult], attribute: str
) -> dict[str, list[StoredResult]]:
    """Return the results that were not edited, in groups with equal values of an attribute.

    Args:
        results: The results.
        attribute: The attribute of a result whose value names its group, such as "label".

    Returns:
        The results of each group, by the value of the attribute.
    """
    attribute_of = attrgetter(attribute)
    groups: dict[str, list[StoredResult]] = {}
    for result in results:
        if not result.is_edited:
            groups.setdefault(attribute_of(result), []).append(result)
    return groups


def _differing_components(results: Iterable[StoredResult]) -> dict[str, list[str]]:
    """Return the components in which models with the same label differ, by label.

    Components are the parts of a model that have a hash, such as its weights and its code, see
    `component_hashes`. Edited results are left out.

    Example:
        {"clip": ["weights"], "siglip": []} if two models with different weights are called "clip",
        and one model is called "siglip".
    """
    results = list(results)
    hashes_by_model = _component_hashes_by_model(results)
    components_by_label = {}
    for label, same_label_results in _group_unedited(results, "model_without_notes").items():
        hashes_of_results = [hashes_by_model[result.model_sha256] for result in same_label_results]
        component_names = list(hashes_of_results[0])
        differing_components = []
        for component in component_names:
            distinct_hashes = {hashes[component] for hashes in hashes_of_results}
            if len(distinct_hashes) > 1:
                differing_components.append(component)
        components_by_label[label] = differing_components
    return components_by_label


def _component_hashes_by_model(results: Iterable[StoredResult]) -> dict[str, dict[str, str]]:
    """Return the `component_hashes` of each model, by its `model_sha256`.

    If several files hold a model, its first result states them.
    """
    hashes_by_model = {}
    for model_sha256, model_results in _group_unedited(results, "model_sha256").items():
        hashes_by_model[model_sha256] = component_hashes(model_results[0].row)
    return hashes_by_model


def _names_by_preference(results: Iterable[StoredResult]) -> tuple[str, ...]:
    """Return the names under which a model has results, the preferred name first.

    Names that users chose come before specifications such as "openclip:ViT-B-32/openai". Short
    names come before long ones, and equally long names are in alphabetical order.
    """
    chosen_names: set[str] = set()
    specs: set[str] = set()
    for result in results:
        has_chosen_name = "name" in result.row.model
        if has_chosen_name:
            chosen_names.add(result.identity.name)
        else:
            specs.add(result.identity.name)
    sorted_names = sorted(chosen_names, key=lambda name: (len(name), name))
    sorted_specs = sorted(specs, key=lambda spec: (len(spec), spec))
    return (*sorted_names, *sorted_specs)


def _add_labs(results: list[StoredResult]) -> list[StoredResult]:
    """Return results with `names_lab` set for models of which labs have different metrics.

    Edited results of labs are not compared, and always name their lab.
    """
    differing_models = set()
    for model_sha256, model_results in _group_unedited(results, "identity.sha256").items():
        if not _have_equal_repeats(model_results, within_labs=False):
            differing_models.add(model_sha256)
    results_with_labs = []
    for result in results:
        differs = result.is_edited or result.identity.sha256 in differing_models
        results_with_labs.append(_relabel(result, names_lab=differs and result.lab != ""))
    return results_with_labs


def _have_equal_repeats(results: Iterable[StoredResult], *, within_labs: bool) -> bool:
    """Return whether repeated measurements of a model have equal metrics.

    Two results of the model repeat each other if they have the same settings, data set and
    protocol, so that tables show them in the same cell if they have the same name.

    Args:
        results: The results of the model.
        within_labs: True if results of two labs do not repeat each other.
    """
    first_rows: dict[tuple[object, ...], ResultRow] = {}
    for result in results:
        settings = tuple(result.row_words)
        lab = result.lab if within_labs else ""
        cell_without_name = (lab, settings, result.dataset, result.row.protocol)
        first_row = first_rows.setdefault(cell_without_name, result.row)
        if not _have_same_metrics(first_row, result.row):
            return False
    return True


def _have_same_metrics(first: ResultRow, second: ResultRow) -> bool:
    """Return whether two results have the same metrics on the same samples.

    Samples are compared by the hashes in the provenance of the results, such as the hash of the
    names of the images. The hash of the content of the images counts only if both results have it,
    since results of older versions do not.
    """
    if first.metrics != second.metrics or first.n_samples != second.n_samples:
        return False
    first_hashes = dict(first.provenance["hashes"])
    second_hashes = dict(second.provenance["hashes"])
    both_have_content = first_hashes.get(CONTENT) and second_hashes.get(CONTENT)
    if not both_have_content:
        first_hashes.pop(CONTENT, None)
        second_hashes.pop(CONTENT, None)
    return first_hashes == second_hashes


def without_other_wordings(
    results: Sequence[StoredResult],
) -> tuple[list[StoredResult], list[str]]:
    """Return the results with the protocols' own wordings, and a note if others were left out.

    If all results have other wordings, all of them are returned.
    """
    with_own_wording = [result for result in results if not wording_name(result.row.protocol)]
    n_left_out = len(results) - len(with_own_wording)
    if n_left_out == 0 or not with_own_wording:
        return list(results), []
    return with_own_wording, [
        f"{n_left_out} results with other wordings: `compare --over wording` compares them"
    ]


def distinct_results(results: Iterable[StoredResult]) -> list[StoredResult]:
    """Return the first result of each cell of a table, without equal results that repeat it.

    A cell is a model, a data set and a protocol.

    Raises:
        UsageError: If two results of one cell differ, since a table can show only one of them.
    """
    results_by_cell: dict[tuple[str, str, str], StoredResult] = {}
    for result in results:
        first_result = results_by_cell.setdefault(result.cell, result)
        if not _have_same_metrics(first_result.row, result.row):
            cell_text = f"{result.label} on {result.row.dataset} ({result.row.protocol})"
            message = f"two results of {cell_text}: keep one of the files"
            # Results that were never written, such as those of tests, have an empty path.
            have_files = first_result.path.name and result.path.name
            if have_files:
                message += f" {first_result.path} and {result.path}"
            raise UsageError(message)
    return list(results_by_cell.values())


def result_warnings(results: Iterable[StoredResult]) -> list[str]:
    """Return the warnings that readers of results should see, one line each.

    They are about names that several models share, models that have several names, results on one
    data set with other settings, edited results, and results whose metrics were not recomputed from
    their samples.

    Args:
        results: The results, which `label_results` labelled.
    """
    results = list(results)
    warnings = [*_shared_name_warnings(results), *_several_names_warnings(results)]
    warnings += _several_columns_warnings(results)

    # Name the files of edited results, in one line for each way of editing.
    for fault, reason in _REASONS_BY_FAULT.items():
        edited_results = [result for result in results if result.fault == fault]
        file_names = list(dict.fromkeys(result.path.name for result in edited_results))
        if file_names:
            files = first_of(file_names, _MOST_FILES)
            warnings.append(f"not ranked and not compared, since {reason}: {files}")

    # Count the results whose metrics were not recomputed.
    n_unchecked = sum(not result.recomputed for result in results)
    if n_unchecked > 0:
        warnings.append(
            f"the metrics of {n_unchecked:,} of {len(results):,} results, whose samples are large, "
            "were not recomputed: `cosmos-eval verify` does"
        )
    return warnings


def _shared_name_warnings(results: list[StoredResult]) -> list[str]:
    """Return one line for each name that several models share, with the components that differ.

    Example: "2 models are called clip: their weights differ, and each has a row of its own".
    """
    results_by_label = _group_unedited(results, "model_without_notes")
    # Models that share a name have notes, which tell them apart.
    components_by_label = _differing_components(result for result in results if result.notes)
    lines = []
    for label, components in sorted(components_by_label.items()):
        if components:
            model_hashes = {result.model_sha256 for result in results_by_label[label]}
            n_models = len(model_hashes)
            lines.append(
                f"{n_models} models are called {label}: their {' and '.join(components)} "
                "differ, and each has a row of its own"
            )
    return lines


def _several_names_warnings(results: list[StoredResult]) -> list[str]:
    """Return one line for each model that has results under several names.

    Example: "one model has the names clip, openclip:ViT-B-32/openai, and is called clip".
    """
    # The end of the line that says how tables show the model, by all names of the model.
    line_ends: dict[tuple[str, ...], str] = {}

    # If the results of a model agree, all of them get the preferred name, which is the first one.
    for result in results:
        if result.names:
            line_ends[result.names] = f", and is called {result.names[0]}"

    # If they differ, every result keeps its name, see `_add_names`.
    results_without_names = [result for result in results if not result.names]
    for model_results in _group_unedited(results_without_names, "model_sha256").values():
        names = _names_by_preference(model_results)
        if len(names) > 1:
            line_ends[names] = ", under which its results differ: each has a row of its own"

    lines = []
    for names, line_end in sorted(line_ends.items()):
        lines.append(f"one model has the names {', '.join(names)}{line_end}")
    return lines


def _several_columns_warnings(results: Iterable[StoredResult]) -> list[str]:
    """Return one line for each data set and protocol whose results have several columns.

    Example: "not compared, since data or settings differ: pets (templates 1a2b3c4d), pets
    (templates 5e6f7a8b)".
    """
    labels_by_set: dict[tuple[str, str, str], set[str]] = {}
    for result in results:
        set_key = (result.row.task, result.row.dataset, result.row.protocol)
        labels_by_set.setdefault(set_key, set()).add(result.dataset)
    lines = []
    for _, labels in sorted(labels_by_set.items()):
        if len(labels) > 1:
            datasets = first_of(sorted(labels), _MOST_FILES)
            lines.append(f"not compared, since data or settings differ: {datasets}")
    return lines


def repeat_notes(results: Iterable[StoredResult]) -> list[str]:
    """Return a list with one note that counts the results which `distinct_results` leaves out.

    The list is empty if `distinct_results` leaves out none.
    """
    # `distinct_results` returns one result of each cell of a table.
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

    A long name loses as many of the first folders of its path as possible, but never becomes the
    same as another name.

    Args:
        names: The names of models, which may have words in brackets.
        longest: The number of characters up to which a name stays as it is.

    Example:
        shorten_names(["cosmos:/data/run/a/last.pt", "cosmos:/data/run/b/last.pt"], 10) -> {
            "cosmos:/data/run/a/last.pt": "cosmos:.../a/last.pt",
            "cosmos:/data/run/b/last.pt": "cosmos:.../b/last.pt",
        }
    """
    # Count how many names have each short form. Only a form of a single name is unambiguous.
    forms_by_name = {name: _forms_without_folders(name) for name in names}
    counts: Counter[str] = Counter()
    for forms in forms_by_name.values():
        counts.update(forms)

    short_names = {}
    for name, forms in forms_by_name.items():
        unique_forms = [form for form in forms if counts[form] == 1]
        if len(name) > longest and unique_forms:
            short_names[name] = unique_forms[0]  # the shortest form
        else:
            short_names[name] = name
    return short_names


def _forms_without_folders(name: str) -> list[str]:
    """Return the forms of a name without the first folders of its path, the shortest form first.

    Forms that are not shorter than the name are left out.

    Example: "cosmos:/data/run/last.pt (bf16)" -> ["cosmos:.../last.pt (bf16)",
    "cosmos:.../run/last.pt (bf16)"].
    """
    # Split the name into "cosmos", ":", "/data/run/last.pt", " (" and "bf16)".
    spec, bracket, words = name.partition(" (")
    kind, colon, path = spec.partition(":")
    path_parts = path.split("/")

    forms = []
    for n_parts in range(1, len(path_parts)):
        path_end = "/".join(path_parts[-n_parts:])
        form = f"{kind}{colon}.../{path_end}{bracket}{words}"
        if len(form) < len(name):
            forms.append(form)
    return forms
