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
from cosmos_eval.stats.label_errors import LabelErrors, agreement, estimate_label_errors
from cosmos_eval.stats.paired import holm, mcnemar
from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.types import RunOptions

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
    # (K, N) and (N,) class numbers.
    answers: Ints
    labels: Ints


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
    one_each = [indices[0] for indices in by_method.values()]
    return {
        "3 methods": one_each[:3],
        "5 methods": one_each[:5],
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


def label_tables(draws: int) -> Iterator[str]:
    """Yield a table of planted wrong labels for each way of planting."""
    answers = read_answers("scenes-cls")
    n_classes = int(answers.labels.max()) + 1
    for title, is_even in (("all classes alike", True), ("where models err", False)):
        rows = []
        for name, chosen in choose_models(answers.models).items():
            group = Answers(
                [answers.models[index] for index in chosen], answers.answers[chosen], answers.labels
            )
            for rate in RATES:
                if rate > 0 or is_even:
                    rng = np.random.default_rng(0)
                    rows.append(_label_row(name, group, n_classes, rate, draws, is_even, rng))
        yield f"### Wrong labels planted, {title}\n\n" + markdown_table(
            rows[0], (row.values() for row in rows), n_text_columns=1
        )


def _label_row(
    name: str,
    group: Answers,
    n_classes: int,
    rate: float,
    draws: int,
    is_even: bool,
    rng: np.random.Generator,
) -> Row:
    """Return a row of means over draws of wrong labels."""
    shares, covered, suspects, claimed, true, planted_counts = [], [], [], [], [], []
    lost_with, lost_without = [], []
    n_draws, n_refused = draws if rate else 1, 0
    decided = _decisions(group.answers == group.labels)
    for _ in range(n_draws):
        if is_even:
            labels = plant_evenly(group.labels, rate, rng)
        else:
            labels = plant_by_confusion(group, rate, rng)
        agreed = agreement(group.answers, labels)
        errors = estimate_label_errors(agreed, labels, n_classes, len(group.models))
        if not errors.is_fitting:
            n_refused += 1
            continue
        is_planted = labels != group.labels
        shares.append(errors.rate)
        covered.append(errors.low <= is_planted.mean() <= errors.high)
        suspects.append(errors.is_suspect.sum())
        claimed.append(errors.probability[errors.is_suspect].sum())
        true.append((errors.is_suspect & is_planted).sum())
        planted_counts.append(is_planted.sum())
        hits = group.answers == labels
        lost_with.append(_n_changed(decided, _decisions(hits)))
        lost_without.append(_n_changed(decided, _decisions(hits[:, ~errors.is_suspect])))
    row = {
        "models": name,
        "planted": f"{100 * rate:.0f}%",
        "refused": f"{100 * n_refused / n_draws:.0f}",
    }
    n_suspects = np.sum(suspects)
    row |= {
        "estimated": f"{100 * np.mean(shares):.1f}" if shares else "-",
        "interval holds": f"{100 * np.mean(covered):.0f}" if shares else "-",
        "suspect": f"{np.mean(suspects):.1f}" if shares else "-",
        "precision": f"{100 * np.sum(true) / n_suspects:.0f}" if n_suspects else "-",
        "precision claimed": f"{100 * np.sum(claimed) / n_suspects:.0f}" if n_suspects else "-",
        "recall": f"{100 * np.sum(true) / np.sum(planted_counts):.0f}" if rate and shares else "-",
        "decided": str(sum(better != 0 for better in decided)),
        "other with faults": f"{np.mean(lost_with):.1f}" if shares else "-",
        "other without suspects": f"{np.mean(lost_without):.1f}" if shares else "-",
    }
    return row


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
    changes = {
        "JPEG of quality 30": _compressed,
        "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
        "mirrored": ImageOps.mirror,
        "10% cut off": lambda image: ImageOps.crop(image, round(0.05 * image.width)),
    }
    rows = []
    rng = np.random.default_rng(0)
    for rate in RATES[1:]:
        n_copies = max(1, round(rate * len(images)))
        originals = rng.permutation(len(images))[: n_copies * len(changes)]
        pictures = [*images]
        truth = set()
        for place, original in enumerate(originals[: n_copies * len(changes)].tolist()):
            change = list(changes.values())[place % len(changes)]
            truth.add((original, len(pictures)))
            pictures.append(change(images[original]))
        pairs = _copies_of(pictures)
        rows.append(
            {
                "copies": f"{100 * rate:.0f}% of each kind",
                "planted": str(len(truth)),
                "found": str(len(truth & pairs)),
                "other pairs": str(len(pairs - truth)),
            }
        )
    return "### Copies planted in scenes\n\n" + markdown_table(
        rows[0], (row.values() for row in rows), n_text_columns=1
    )


def _compressed(image: Image.Image) -> Image.Image:
    """Return an image after a strong compression."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def _copies_of(pictures: Sequence[Image.Image]) -> set[tuple[int, int]]:
    """Return all pairs of images that are copies of each other, the lower index first."""
    sources = {str(index): Picture(str(index), image) for index, image in enumerate(pictures)}
    images = EvaluationImages.read(sources, RunOptions(workers=0), lambda progress: None)
    return _pairs_of(find_copies(images, len(sources)))


def _pairs_of(copy_of: Ints) -> set[tuple[int, int]]:
    """Return all pairs of items with the same number, the lower index first."""
    items_by_number: dict[int, list[int]] = {}
    for item, number in enumerate(copy_of.tolist()):
        items_by_number.setdefault(number, []).append(item)
    pairs = set()
    for items in items_by_number.values():
        pairs |= {(a, b) for place, b in enumerate(items) for a in items[:place]}
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
    files = [row["file"] for row in sorted(rows, key=lambda row: int(row["index"]))]
    _, labels = np.unique([name.split("/")[1] for name in files], return_inverse=True)
    return Cifar(folder, files, labels.astype(np.int64))


def cifar_duplicates(cifar: Cifar) -> str:
    """Compare the copies found within the test images with ciFAIR's list."""
    with open(cifar.folder / "duplicates_within_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    listed: dict[str, set[tuple[int, int]]] = {"1": set(), "2": set()}
    for row in rows:
        pair = tuple(sorted((int(row["TestID"]), int(row["TrainID"]))))
        listed.setdefault(row["Judgment"], set()).add(pair)  # type: ignore[arg-type]
    with ZipFile(cifar.folder / "test.zip") as archive:
        sources = {str(i): ZippedImage(archive, name) for i, name in enumerate(cifar.files)}
        images = EvaluationImages.read(sources, RunOptions(workers=1), lambda progress: None)
    pairs = _pairs_of(find_copies(images, len(cifar.files)))
    n_other_label = sum(cifar.labels[a] != cifar.labels[b] for a, b in pairs)
    near, similar = listed["1"], listed["2"]
    return (
        "### Copies within CIFAR-10's test images, ciFAIR's list\n\n"
        f"Found: {len(pairs)} pairs, {n_other_label} with different labels. Of {len(near)} listed "
        f"near-duplicates {len(near & pairs)} are found, of {len(similar)} very similar ones "
        f"{len(similar & pairs)}; {len(pairs - near - similar)} pairs are not listed."
    )


def cifar_labels(cifar: Cifar) -> str:
    """Compare suspect labels of CIFAR-10's test images with the labels that people rejected."""
    # The first network: cross-validated probabilities of Northcutt et al. Its classes are in
    # alphabetical order, as those of the folders are.
    published = np.load(cifar.folder / "predicted_probabilities_test.npy").argmax(axis=1)
    networks = np.load(NETWORKS)["top1"][:, np.argsort(np.argsort(cifar.files))]
    answers = np.concatenate([published[None], networks]).astype(np.int64)
    with open(cifar.folder / "label_errors_mturk.json") as file:
        asked = json.load(file)
    is_asked = np.zeros(len(cifar.labels), bool)
    is_rejected = np.zeros(len(cifar.labels), bool)
    for item in asked:
        is_asked[item["id"]] = True
        is_rejected[item["id"]] = item["mturk"]["given"] < 3
    rows = []
    for name, chosen in (
        ("all 4", slice(None)),
        ("published, 2 small ones", slice(0, 3)),
        ("3 small ones", slice(1, None)),
    ):
        group = answers[chosen]
        agreed = agreement(group, cifar.labels)
        errors = estimate_label_errors(agreed, cifar.labels, 10, len(group))
        is_shared = agreed.votes > len(group) // 2
        is_unanimous = agreed.votes == len(group)
        for answer, chosen_items in (("most", is_shared), ("all", is_unanimous)):
            row = _cifar_row(errors, answer, len(group), chosen_items, is_asked, is_rejected)
            rows.append({"networks": name, **row})
    accuracies = ", ".join(f"{100 * np.mean(row == cifar.labels):.1f}" for row in answers)
    table = markdown_table(rows[0], (row.values() for row in rows), n_text_columns=1)
    return (
        f"### Label errors of CIFAR-10's test images\n\nAccuracies: {accuracies}%. People were "
        f"asked about {len(asked)} labels and rejected {is_rejected.sum()}.\n\n{table}"
    )


def _cifar_row(
    errors: LabelErrors,
    answer: str,
    n_models: int,
    chosen: NDArray[np.bool_],
    is_asked: NDArray[np.bool_],
    is_rejected: NDArray[np.bool_],
) -> Row:
    """Return how items on which networks agree compare with the labels that people rejected.

    Args:
        errors: The estimate of wrong labels.
        answer: The share of networks that agree, "most" or "all".
        n_models: The number of networks.
        chosen: (N,) whether so many networks share an answer against the label.
        is_asked: (N,) whether people were asked.
        is_rejected: (N,) whether they rejected the label.
    """
    least_votes = n_models if answer == "all" else n_models // 2 + 1
    expected = errors.expected_by_votes[least_votes:].sum()
    return {
        "fit, p": p_value_text(errors.fit),
        "answer alike": answer,
        "items": str(chosen.sum()),
        "by chance": f"{expected:.0f}" if errors.is_fitting else "-",
        "asked about": str((chosen & is_asked).sum()),
        "rejected": str((chosen & is_rejected).sum()),
        "precision": f"{100 * (chosen & is_rejected).sum() / max(1, chosen.sum()):.1f}%",
        "recall": f"{100 * (chosen & is_rejected).sum() / is_rejected.sum():.0f}%",
    }


def text_table(title: str, items: Sequence[Item]) -> str:
    """Return the checks of captions alone, by subset."""
    items_by_subset: dict[str, list[Item]] = {}
    for item in items:
        items_by_subset.setdefault(item.subset, []).append(item)
    rows = [_text_row(subset, members) for subset, members in sorted(items_by_subset.items())]
    rows.append(_text_row("all", items))
    return f"### Captions of {title}\n\n" + markdown_table(
        rows[0], (row.values() for row in rows), n_text_columns=1
    )


def _text_row(subset: str, items: Sequence[Item]) -> Row:
    """Return how many items have right and wrong captions with the same words, and lengths."""
    chances = np.array([bag_of_words_chance(item.captions, item.n_correct) for item in items])
    shorter, longer, repeated = [], [], 0
    for item in items:
        n_words = [len(caption.split()) for caption in item.captions]
        right, wrong = n_words[: item.n_correct], n_words[item.n_correct :]
        shorter.append(max(right) < min(wrong))
        longer.append(min(right) > max(wrong))
        repeated += bool(
            set(item.captions[: item.n_correct]) & set(item.captions[item.n_correct :])
        )
    n_copies = len(items) - len({(item.pictures, frozenset(item.captions)) for item in items})
    return {
        "subset": subset,
        "items": f"{len(items):,}",
        "same words": str((chances < 1).sum()),
        "share": f"{100 * np.mean(chances < 1):.1f}%",
        "ceiling, ties random": f"{100 * chances.mean():.2f}",
        "ceiling, ties wrong": f"{100 * np.mean(chances == 1):.2f}",
        "right shorter": f"{100 * np.mean(shorter):.1f}%",
        "right longer": f"{100 * np.mean(longer):.1f}%",
        "right equals wrong": str(repeated),
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
        for place in (folder / name, folder / "originals" / name):
            if place.is_dir():
                return place
    return None


def main() -> None:
    """Print all tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="end within 60 seconds")
    arguments.add_argument("--data", type=Path, action="append", default=[], metavar="FOLDER")
    options = arguments.parse_args()
    for table in label_tables(QUICK_DRAWS if options.quick else DRAWS):
        print(table, end="\n\n", flush=True)
    print(copy_table(options.quick), end="\n\n", flush=True)
    for table in original_tables(options.data):
        print(table, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
