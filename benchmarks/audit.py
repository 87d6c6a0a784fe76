"""`python benchmarks/audit.py [--quick] [--data FOLDER]...`: does `cosmos-eval audit` find faults?

Prints Markdown tables (`audit.md` has the output):

- wrong labels planted in scenes-cls, whose labels are known to be right, with the answers of
  trainings of `study/trainings`: the estimated share, how often its interval holds the true one,
  precision and recall of the suspect labels, and what the labels do to the ranking;
- copies of scenes, planted and searched;
- original lists below a FOLDER, each with a line in place of its table if it is not there:
  `cifar10` (images, ciFAIR's duplicates, the label errors of Northcutt et al. 2021 and the
  probabilities of their network), `sugar-crepe/data`, `scpp/data` and `VALSE/data`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cosmos_eval.data.selection_layouts import Item, read_items
from cosmos_eval.data.sources import ZippedImage
from cosmos_eval.protocols import prepare
from cosmos_eval.results.store import read_samples, result_paths
from cosmos_eval.results.text import markdown_table, p_value_text
from cosmos_eval.runner.audit import find_copies
from cosmos_eval.runner.overlap import EvaluationImages
from cosmos_eval.stats.items import bag_of_words_chance
from cosmos_eval.stats.label_errors import agreement, estimate_label_errors
from cosmos_eval.stats.paired import holm, mcnemar
from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.types import RunOptions, no_progress

HERE = Path(__file__).parent
TRAININGS = HERE / "study" / "trainings"
NETWORKS = HERE / "cifar10_networks.npz"
RATES = (0.0, 0.01, 0.02, 0.05, 0.1)
DRAWS, QUICK_DRAWS = 50, 5
LEAST_ACCURACY = 0.55  # halfway between chance and perfect

Row = dict[str, str]
Ints = NDArray[np.int64]


class Answers(NamedTuple):
    """The answers of K models to N images with right labels."""

    models: list[str]
    # (K, N) the class number that each model answers.
    answers: Ints
    # (N,) the right class numbers.
    labels: Ints

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return int(self.labels.max()) + 1

    def select(self, indices: Sequence[int]) -> Answers:
        """Return the answers of some of the models."""
        models = [self.models[index] for index in indices]
        return Answers(models, self.answers[list(indices)], self.labels)


def read_answers(dataset: str) -> Answers:
    """Return the answers of all trainings that are better than LEAST_ACCURACY."""
    models: list[str] = []
    answers = []
    for path in result_paths(TRAININGS):
        if f"__{dataset}__" not in path.name and not path.name.startswith(f"{dataset}__"):
            continue
        samples = read_samples(path)
        labels = samples[classification.LABELS]
        top1 = samples[classification.TOP5][:, 0]
        if np.mean(top1 == labels) > LEAST_ACCURACY:
            models.append(path.parent.name.rpartition("-")[0])
            answers.append(top1)
    return Answers(models, np.stack(answers), labels)


def choose_models(models: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of models for the rows of the tables, by their names."""
    by_method: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        by_method.setdefault(model, []).append(index)
    first_trainings = [indices[0] for indices in by_method.values()]
    return {
        "3 methods": first_trainings[:3],
        "5 methods": first_trainings[:5],
        "5 seeds of COSMOS": by_method["cosmos"],
        f"all {len(models)}": list(range(len(models))),
    }


def plant_evenly(labels: Ints, rate: float, rng: np.random.Generator) -> Ints:
    """Return labels of which a share is replaced by another class, each equally often."""
    n_classes = labels.max() + 1
    wrong = rng.permutation(len(labels))[: round(rate * len(labels))]
    planted = labels.copy()
    planted[wrong] = (planted[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    return planted


def plant_by_confusion(answers: Answers, rate: float, rng: np.random.Generator) -> Ints:
    """Return labels of which a share is replaced as the models err: by their wrong answers.

    The images are those about which some model errs, so that the label is a wrong answer to it.
    """
    is_wrong = answers.answers != answers.labels
    images = rng.permutation(np.flatnonzero(is_wrong.any(axis=0)))
    images = images[: round(rate * len(answers.labels))]
    planted = answers.labels.copy()
    for image in images:
        planted[image] = rng.choice(answers.answers[is_wrong[:, image], image])
    return planted


class DrawResult(NamedTuple):
    """The audit of one draw of wrong labels."""

    # The estimated share of wrong labels.
    rate: float
    # Whether the interval of this share contains the true one.
    is_held: bool
    # The number of suspect labels.
    n_suspect: int
    # The number of suspect labels that are wrong.
    n_true: int
    # The estimate of this number: the sum of the probabilities that suspect labels are wrong.
    n_claimed: float
    # The number of wrong labels.
    n_planted: int
    # The number of pairs of models that are decided otherwise than by the right labels.
    changed_with_faults: int
    # The same number if the images with suspect labels are left out.
    changed_without_suspects: int


def label_tables(n_draws: int) -> Iterator[str]:
    """Yield a table of planted wrong labels for each way of planting."""
    answers = read_answers("scenes-cls")
    for title, is_even in (("all classes alike", True), ("where models err", False)):
        rows = []
        for name, indices in choose_models(answers.models).items():
            for rate in RATES:
                if rate > 0 or is_even:
                    rows.append(_label_row(name, answers.select(indices), rate, n_draws, is_even))
        yield f"### Wrong labels planted, {title}\n\n" + markdown_table(
            rows[0], (row.values() for row in rows), n_text_columns=1
        )


def _label_row(name: str, group: Answers, rate: float, n_draws: int, is_even: bool) -> Row:
    """Return a row of means over draws of wrong labels; without wrong labels, there is one draw."""
    rng = np.random.default_rng(0)
    decisions = _decisions(group.answers == group.labels)
    n_draws = n_draws if rate else 1
    results = []
    for _ in range(n_draws):
        if is_even:
            planted_labels = plant_evenly(group.labels, rate, rng)
        else:
            planted_labels = plant_by_confusion(group, rate, rng)
        result = audit_draw(group, planted_labels, decisions)
        if result is not None:
            results.append(result)
    n_refused = n_draws - len(results)
    row = {
        "models": name,
        "planted": f"{100 * rate:.0f}%",
        "refused": f"{100 * n_refused / n_draws:.0f}",
    }
    row |= _suspect_cells(results)
    row["decided"] = str(sum(decision != 0 for decision in decisions))
    row |= _ranking_cells(results)
    return row


def audit_draw(group: Answers, planted_labels: Ints, decisions: Sequence[int]) -> DrawResult | None:
    """Audit labels, some of which are wrong; return None if no mixture fits the answers.

    Args:
        group: The answers of the models, and the right labels.
        planted_labels: (N,) the labels that are audited.
        decisions: The decisions about pairs of models by the right labels, see `_decisions`.
    """
    agreed = agreement(group.answers, planted_labels)
    errors = estimate_label_errors(agreed, planted_labels, group.n_classes, len(group.models))
    if not errors.is_fitting:
        return None
    is_planted = planted_labels != group.labels
    hits = group.answers == planted_labels
    return DrawResult(
        rate=errors.rate,
        is_held=bool(errors.low <= is_planted.mean() <= errors.high),
        n_suspect=int(errors.is_suspect.sum()),
        n_true=int((errors.is_suspect & is_planted).sum()),
        n_claimed=float(errors.probability[errors.is_suspect].sum()),
        n_planted=int(is_planted.sum()),
        changed_with_faults=_n_changed(decisions, _decisions(hits)),
        changed_without_suspects=_n_changed(decisions, _decisions(hits[:, ~errors.is_suspect])),
    )


def _suspect_cells(results: Sequence[DrawResult]) -> Row:
    """Return how good the estimated shares and suspect labels are; "-" for unknown numbers."""
    n_suspect = sum(result.n_suspect for result in results)
    n_true = sum(result.n_true for result in results)
    n_planted = sum(result.n_planted for result in results)
    n_claimed = np.sum([result.n_claimed for result in results])
    cells = dict.fromkeys(
        ("estimated", "interval holds", "suspect", "precision", "precision claimed", "recall"), "-"
    )
    if results:
        cells["estimated"] = f"{100 * np.mean([result.rate for result in results]):.1f}"
        cells["interval holds"] = f"{100 * np.mean([result.is_held for result in results]):.0f}"
        cells["suspect"] = f"{n_suspect / len(results):.1f}"
    if n_suspect:
        cells["precision"] = f"{100 * n_true / n_suspect:.0f}"
        cells["precision claimed"] = f"{100 * n_claimed / n_suspect:.0f}"
    if n_planted:
        cells["recall"] = f"{100 * n_true / n_planted:.0f}"
    return cells


def _ranking_cells(results: Sequence[DrawResult]) -> Row:
    """Return how many pairs of models are decided otherwise, on average; "-" without results."""
    if not results:
        return {"other with faults": "-", "other without suspects": "-"}
    with_faults = np.mean([result.changed_with_faults for result in results])
    without_suspects = np.mean([result.changed_without_suspects for result in results])
    return {
        "other with faults": f"{with_faults:.1f}",
        "other without suspects": f"{without_suspects:.1f}",
    }


def _decisions(hits: NDArray[np.bool_]) -> list[int]:
    """Return for each pair of models 1 or -1 if one is shown to be better, else 0 (Holm)."""
    tests = [mcnemar(hits[a], hits[b]) for a in range(len(hits)) for b in range(a)]
    adjusted = holm([test.p_value for test in tests])
    decisions = []
    for test, p_value in zip(tests, adjusted, strict=True):
        decisions.append(int(np.sign(test.difference)) if p_value <= 0.05 else 0)
    return decisions


def _n_changed(truth: Sequence[int], decisions: Sequence[int]) -> int:
    """Return how many pairs of models are decided otherwise."""
    return sum(a != b for a, b in zip(truth, decisions, strict=True))


class Picture:
    """A decoded image as a data set has it."""

    def __init__(self, name: str, image: Image.Image) -> None:
        """Keep an image and its name, which stands for its bytes."""
        self.name, self.image = name, image

    def read(self) -> bytes:
        """Return bytes that no other picture has."""
        return self.name.encode()

    def decode(self, content: bytes) -> Image.Image:
        """Return the image."""
        return self.image


def copy_table(quick: bool) -> str:
    """Plant changed copies of scenes among the scenes, and return how many are found."""
    protocol = find_protocol("scenes-cls", "scenes")
    prepare(protocol)
    sources = classification.TASK.open_data(protocol, RunOptions()).images
    images = []
    for source in sources[: 100 if quick else None]:
        images.append(source.decode(source.read()).convert("RGB"))
    rows = []
    rng = np.random.default_rng(0)
    for rate in RATES[1:]:
        n_copies = max(1, round(rate * len(images)))  # of each kind
        originals = rng.permutation(len(images))[: n_copies * len(CHANGES)]
        copies = []
        true_pairs = set()
        for number, original in enumerate(originals.tolist()):
            change = CHANGES[number % len(CHANGES)]
            true_pairs.add((original, len(images) + number))
            copies.append(change(images[original]))
        found_pairs = _copies_of([*images, *copies])
        rows.append(
            {
                "copies": f"{100 * rate:.0f}% of each kind",
                "planted": str(len(true_pairs)),
                "found": str(len(true_pairs & found_pairs)),
                "other pairs": str(len(found_pairs - true_pairs)),
            }
        )
    return "### Copies planted in scenes\n\n" + markdown_table(
        rows[0], (row.values() for row in rows), n_text_columns=1
    )


def compress(image: Image.Image) -> Image.Image:
    """Return an image after a strong compression, as a JPEG of quality 30."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def halve(image: Image.Image) -> Image.Image:
    """Return an image of half the width and height."""
    return image.resize((image.width // 2, image.height // 2))


def crop(image: Image.Image) -> Image.Image:
    """Return an image without 5% of its width on all sides."""
    return ImageOps.crop(image, round(0.05 * image.width))


CHANGES = (compress, halve, ImageOps.mirror, crop)
"""How copies are changed, in turn."""


def _copies_of(pictures: Sequence[Image.Image]) -> set[tuple[int, int]]:
    """Return all pairs of images that are copies of each other, the lower index first."""
    sources = {str(index): Picture(str(index), image) for index, image in enumerate(pictures)}
    images = EvaluationImages.read(sources, RunOptions(workers=0), no_progress)
    return _pairs_of(find_copies(images, len(sources)))


def _pairs_of(copy_of: Ints) -> set[tuple[int, int]]:
    """Return all pairs of items with the same number, the lower index first."""
    items_by_number: dict[int, list[int]] = {}
    for item, number in enumerate(copy_of.tolist()):
        items_by_number.setdefault(number, []).append(item)
    pairs: set[tuple[int, int]] = set()
    for items in items_by_number.values():
        pairs.update(combinations(items, 2))
    return pairs


class Cifar(NamedTuple):
    """The test images of CIFAR-10, in the order of the original test batch."""

    folder: Path
    # (10000,) paths in test.zip.
    files: list[str]
    # (10000,) class numbers, in alphabetical order of the class names.
    labels: Ints


def read_cifar(folder: Path) -> Cifar:
    """Read the order and labels of the test images."""
    with open(folder / "order.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    rows.sort(key=lambda row: int(row["index"]))
    files = [row["file"] for row in rows]
    class_names = [name.split("/")[1] for name in files]
    _, labels = np.unique(class_names, return_inverse=True)
    return Cifar(folder, files, labels.astype(np.int64))


def cifar_duplicates(cifar: Cifar) -> str:
    """Compare the copies found within the test images with ciFAIR's list."""
    listed: dict[str, set[tuple[int, int]]] = {"1": set(), "2": set()}  # by judgment
    with open(cifar.folder / "duplicates_within_test.csv", newline="") as file:
        for row in csv.DictReader(file):
            a, b = sorted((int(row["TestID"]), int(row["TrainID"])))
            listed.setdefault(row["Judgment"], set()).add((a, b))
    with ZipFile(cifar.folder / "test.zip") as archive:
        sources = {str(i): ZippedImage(archive, name) for i, name in enumerate(cifar.files)}
        images = EvaluationImages.read(sources, RunOptions(workers=1), no_progress)
    pairs = _pairs_of(find_copies(images, len(cifar.files)))
    n_other_label = sum(cifar.labels[a] != cifar.labels[b] for a, b in pairs)
    near, similar = listed["1"], listed["2"]
    return (
        "### Copies within CIFAR-10's test images, ciFAIR's list\n\n"
        f"Found: {len(pairs)} pairs, {n_other_label} with different labels. Of {len(near)} listed "
        f"near-duplicates {len(near & pairs)} are found, of {len(similar)} very similar ones "
        f"{len(similar & pairs)}; {len(pairs - near - similar)} pairs are not listed."
    )


class Reviews(NamedTuple):
    """The judgments of people about the labels of N images."""

    # The number of labels that they were asked about.
    n_asked: int
    # (N,) whether they were asked about the label.
    is_asked: NDArray[np.bool_]
    # (N,) whether they rejected the label: fewer than three chose it.
    is_rejected: NDArray[np.bool_]


def read_reviews(cifar: Cifar) -> Reviews:
    """Read which labels people were asked about, and which of them they rejected."""
    with open(cifar.folder / "label_errors_mturk.json") as file:
        items = json.load(file)
    is_asked = np.zeros(len(cifar.labels), bool)
    is_rejected = np.zeros(len(cifar.labels), bool)
    for item in items:
        is_asked[item["id"]] = True
        is_rejected[item["id"]] = item["mturk"]["given"] < 3
    return Reviews(len(items), is_asked, is_rejected)


def read_cifar_answers(cifar: Cifar) -> Ints:
    """Read the answers (4, 10000) of four networks, in the order of the test images.

    The first network has the cross-validated probabilities of Northcutt et al. Its classes are in
    alphabetical order, as the classes of the folders are.
    """
    probabilities = np.load(cifar.folder / "predicted_probabilities_test.npy")
    published = probabilities.argmax(axis=1)
    # The other networks have their answers in the order of the sorted file names.
    positions = np.argsort(np.argsort(cifar.files))
    networks = np.load(NETWORKS)["top1"][:, positions]
    return np.concatenate([published[None], networks]).astype(np.int64)


def cifar_labels(cifar: Cifar) -> str:
    """Compare suspect labels of CIFAR-10's test images with the labels that people rejected."""
    answers = read_cifar_answers(cifar)
    reviews = read_reviews(cifar)
    rows = []
    for name, selected in (
        ("all 4", slice(None)),
        ("published, 2 small ones", slice(0, 3)),
        ("3 small ones", slice(1, None)),
    ):
        group = answers[selected]
        agreed = agreement(group, cifar.labels)
        errors = estimate_label_errors(agreed, cifar.labels, 10, len(group))
        for answer, least_votes in (("most", len(group) // 2 + 1), ("all", len(group))):
            row = {"networks": name, "fit, p": p_value_text(errors.fit), "answer alike": answer}
            expected = errors.expected_by_votes[least_votes:].sum()
            by_chance = f"{expected:.0f}" if errors.is_fitting else "-"
            rows.append(row | _review_cells(agreed.votes >= least_votes, by_chance, reviews))
    accuracies = ", ".join(f"{100 * np.mean(row == cifar.labels):.1f}" for row in answers)
    table = markdown_table(rows[0], (row.values() for row in rows), n_text_columns=1)
    return (
        f"### Label errors of CIFAR-10's test images\n\nAccuracies: {accuracies}%. People were "
        f"asked about {reviews.n_asked} labels and rejected {reviews.is_rejected.sum()}."
        f"\n\n{table}"
    )


def _review_cells(is_suspect: NDArray[np.bool_], by_chance: str, reviews: Reviews) -> Row:
    """Return how suspect labels compare with the labels that people rejected.

    Args:
        is_suspect: (N,) whether enough networks share an answer against the label.
        by_chance: How many such labels are expected by chance, as text.
        reviews: The judgments of people about the labels.
    """
    n_suspect = is_suspect.sum()
    n_rejected = (is_suspect & reviews.is_rejected).sum()
    return {
        "items": str(n_suspect),
        "by chance": by_chance,
        "asked about": str((is_suspect & reviews.is_asked).sum()),
        "rejected": str(n_rejected),
        "precision": f"{100 * n_rejected / max(1, n_suspect):.1f}%",
        "recall": f"{100 * n_rejected / reviews.is_rejected.sum():.0f}%",
    }


def text_table(title: str, items: Sequence[Item]) -> str:
    """Return the checks of captions without images, by subset."""
    items_by_subset: dict[str, list[Item]] = {}
    for item in items:
        items_by_subset.setdefault(item.subset, []).append(item)
    rows = [_text_row(subset, members) for subset, members in sorted(items_by_subset.items())]
    rows.append(_text_row("all", items))
    return f"### Captions of {title}\n\n" + markdown_table(
        rows[0], (row.values() for row in rows), n_text_columns=1
    )


def _text_row(subset: str, items: Sequence[Item]) -> Row:
    """Return how the captions of items differ in words and lengths, and how many are copies."""
    chances = np.array([bag_of_words_chance(item.captions, item.n_correct) for item in items])
    is_shorter, is_longer, n_repeated = [], [], 0
    for item in items:
        right, wrong = item.captions[: item.n_correct], item.captions[item.n_correct :]
        right_lengths = [len(caption.split()) for caption in right]
        wrong_lengths = [len(caption.split()) for caption in wrong]
        is_shorter.append(max(right_lengths) < min(wrong_lengths))
        is_longer.append(min(right_lengths) > max(wrong_lengths))
        if set(right) & set(wrong):
            n_repeated += 1
    n_copies = len(items) - len({(item.pictures, frozenset(item.captions)) for item in items})
    return {
        "subset": subset,
        "items": f"{len(items):,}",
        "same words": str((chances < 1).sum()),
        "share": f"{100 * np.mean(chances < 1):.1f}%",
        "ceiling, ties random": f"{100 * chances.mean():.2f}",
        "ceiling, ties wrong": f"{100 * np.mean(chances == 1):.2f}",
        "right shorter": f"{100 * np.mean(is_shorter):.1f}%",
        "right longer": f"{100 * np.mean(is_longer):.1f}%",
        "right equals wrong": str(n_repeated),
        "copies": str(n_copies),
    }


def original_tables(folders: Sequence[Path]) -> Iterator[str]:
    """Yield the tables of original lists, or a line for each that is not there."""
    cifar_folder = _find_folder(folders, "cifar10")
    if cifar_folder is None:
        yield "CIFAR-10: skipped, no folder cifar10 below --data"
    else:
        cifar = read_cifar(cifar_folder)
        yield cifar_duplicates(cifar)
        yield cifar_labels(cifar)
    for title, dataset, name in (
        ("SugarCrepe", "sugarcrepe", "sugar-crepe/data"),
        ("SugarCrepe++", "sugarcrepe-pp", "scpp/data"),
        ("VALSE", "valse", "VALSE/data"),
    ):
        folder = _find_folder(folders, name)
        if folder is None:
            yield f"{title}: skipped, no folder {name} below --data"
        else:
            yield text_table(title, read_items(find_protocol(dataset), folder))  # type: ignore[arg-type]


def _find_folder(folders: Sequence[Path], name: str) -> Path | None:
    """Return the folder of a name in one of the folders, or in their `originals`."""
    for folder in folders:
        for path in (folder / name, folder / "originals" / name):
            if path.is_dir():
                return path
    return None


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 60 seconds")
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="FOLDER")
    arguments = parser.parse_args()
    for table in label_tables(QUICK_DRAWS if arguments.quick else DRAWS):
        print(table, end="\n\n", flush=True)
    print(copy_table(arguments.quick), end="\n\n", flush=True)
    for table in original_tables(arguments.data):
        print(table, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
