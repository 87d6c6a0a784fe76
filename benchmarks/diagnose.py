"""`python benchmarks/diagnose.py [--quick] [--json]`: how often `cosmos-eval diagnose` is right.

Every fault of the catalogue, and every pair of faults that the command considers, is injected into
the evaluation of a whole data set. The diagnosis sees only the number, rounded to one decimal, and
runs some of the images, at random. Faults that move the number by no more than rounding and
precision are left out: they are `hidden`. Scrambled labels are scrambled by other seeds.

Models are the bundled ones, the same converted to `hf:` and `openclip:` folders, and random ones.
`wide` is a drawn set of 800 scenes as JPEG files that are not square, of which a fifth has an
EXIF orientation; classes and templates have capitals and full stops, and the folders are in another
order than the names. `photographs` are made-up photographs with labels at random.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import PIL.Image
import torch
import transformers
import yaml
from _photographs import jpegs
from PIL import ImageFilter, ImageOps

from cosmos_core.data.scenes import CLASSES
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_eval.models import load_encoder
from cosmos_eval.models.convert import convert
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.results.text import markdown_table
from cosmos_eval.runner.diagnosis.diagnose import (
    SLIP,
    Hypothesis,
    Trials,
    agrees,
    are_both_chance,
    is_any_explained,
    predict_all,
    weigh,
)
from cosmos_eval.runner.diagnosis.faults import Fault
from cosmos_eval.runner.diagnosis.images import IMAGE_FAULTS, ImageFault, Transform
from cosmos_eval.runner.diagnosis.known import Known, parse_known
from cosmos_eval.runner.diagnosis.labels import LABEL_FAULTS, ScrambleFault
from cosmos_eval.runner.diagnosis.modules import MODULE_FAULTS
from cosmos_eval.runner.diagnosis.passes import encode_in_other_precision, encode_with_faults
from cosmos_eval.runner.diagnosis.subjects import Subject, make_subject
from cosmos_eval.runner.diagnosis.texts import TEXT_FAULTS
from cosmos_eval.runner.plan import open_dataset
from cosmos_eval.stats import diagnosis as stats
from cosmos_eval.stats.estimates import Values
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import RunOptions, no_progress

OPTIONS = RunOptions(device="cpu", cache=None)
N_WIDE, N_PHOTOGRAPHS = 800, 400
N_SAMPLES = (300, 100)
N_REDRAWN = 200
TINY_NAME = "diagnosed-tiny"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
KNOWN_KINDS = ("number", "file")  # values of Injection.known
PRIORS = {
    "single": stats.SINGLE,
    "pair": stats.PAIR,
    "redrawn": stats.OTHER_SAMPLES,
    "outside": stats.ELSE,
}
OTHER_SEEDS = (99,)  # of scrambled labels


class Case(NamedTuple):
    """A model that is diagnosed on a data set."""

    # The specification of the model, as on the command line.
    model: str
    # The name of the data set, or the path of its YAML file.
    dataset: str
    metric: str


@dataclass(frozen=True)
class Number:
    """A number of the whole set, made by faults or otherwise."""

    # `single`, `pair`, `outside`, `redrawn` or `precision`.
    kind: str
    # The names of the injected faults.
    faults: tuple[str, ...]
    value: float
    # (N,) the outcomes of all images; None if they are not known.
    outcomes: Values | None = None

    @classmethod
    def of_outcomes(cls, kind: str, faults: tuple[str, ...], outcomes: Values) -> Number:
        """Return the number that is the mean of outcomes (N,)."""
        return cls(kind, faults, float(outcomes.mean()), outcomes)


@dataclass(frozen=True)
class Injection:
    """A number with known faults, and what the diagnosis said."""

    # The names of the model, the data set and the metric.
    subject: str
    # How many images the diagnosis ran.
    n_samples: int
    # `number`, or `file` with the hits of all images.
    known: str
    # `single`, `pair`, `outside`, `redrawn` or `precision`.
    kind: str
    # The names of the injected faults.
    faults: tuple[str, ...]
    # `agrees` if the fault is hidden, `chance`, `fault` if one is named, or `none`.
    verdict: str
    # The faults of the most probable explanation.
    first: tuple[str, ...] = ()
    # The faults of each explanation that is tied with the first, which is one of them.
    tied: tuple[tuple[str, ...], ...] = ()
    # The probability of the first explanation.
    probability: float = 0.0
    # The predicted interval of the number with the injected faults.
    predicted: tuple[float, float] | None = None
    # The number that was injected.
    value: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OutsideFault(ImageFault):
    """A fault that the catalogue does not have."""

    def change_picture(self, picture: PIL.Image.Image, transform: Transform) -> PIL.Image.Image:
        if self.name == "grey":
            return ImageOps.grayscale(picture).convert("RGB")
        if self.name == "blurred":
            return picture.filter(ImageFilter.GaussianBlur(picture.width / 40))
        if self.name == "turned by 90 degrees":
            return picture.transpose(PIL.Image.Transpose.ROTATE_90)
        if self.name == "upside down":
            return picture.transpose(PIL.Image.Transpose.ROTATE_180)
        if self.name == "inverted":
            return ImageOps.invert(picture)
        return ImageOps.posterize(picture, 2)


OUTSIDE = tuple(
    OutsideFault(name=name, wrong="", check="")
    for name in (
        "grey",
        "blurred",
        "turned by 90 degrees",
        "upside down",
        "inverted",
        "four levels per channel",
    )
)


def main() -> None:
    """Inject faults, diagnose, and print how often the diagnosis is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one model on one set")
    parser.add_argument(
        "--json", action="store_true", help="print the injections, a list per model and set"
    )
    parser.add_argument("--model", default="", help="only models with this in their name")
    arguments = parser.parse_args()
    injections: list[Injection] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder), arguments.quick):
            if arguments.model not in label(case.model):
                continue
            new_injections = list(inject_all(case))
            injections += new_injections
            if arguments.json:
                print(json.dumps([vars(injection) for injection in new_injections]), flush=True)
    if not arguments.json:
        print("\n\n".join(tables(injections)))


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yield the cases; models and data sets are written to the folder."""
    yield Case("scenes-cosmos", "scenes-cls", "acc1")
    if quick:
        return
    yield Case("scenes-cosmos", "scenes-retrieval", "image_to_text_R@1")
    yield Case("scenes-clip-long", "scenes-retrieval-five", "text_to_image_R@1")
    wide = write_wide(folder / "wide")
    hf, openclip = folder / "hf", folder / "openclip"
    convert(parse_model_spec("scenes-clip-long"), hf)
    convert(parse_model_spec(f"hf:{hf}"), openclip)
    yield Case("scenes-cosmos", wide, "acc1")
    yield Case(f"hf:{hf}", wide, "acc1")
    yield Case(f"openclip:{openclip}", wide, "mean_per_class_recall")

    # Random weights are at chance, where nothing can be seen.
    photographs = write_photographs(folder / "photographs")
    random_hf = folder / "random-hf"
    shutil.copytree(hf, random_hf)
    torch.manual_seed(0)
    config = transformers.CLIPConfig.from_pretrained(hf)
    transformers.CLIPModel(config).save_pretrained(random_hf)
    (folder / f"{TINY_NAME}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / f"{TINY_NAME}.json")
    yield Case(f"hf:{random_hf}", photographs, "acc1")
    yield Case(f"openclip:{TINY_NAME}/random", photographs, "acc1")


def write_wide(folder: Path) -> str:
    """Write a set of scenes that are not square, and return the path of its YAML file."""
    write_layouts(folder / "square", split="test", count=N_WIDE, layouts=["folder"])
    rng = np.random.default_rng(0)
    class_folders = {path.name: path for path in (folder / "square/folder/test").iterdir()}
    names = [str(name) for name in rng.permutation(sorted(class_folders))]
    for number, name in enumerate(names):
        target = folder / "images" / f"c{number:02}"
        target.mkdir(parents=True)
        for path in sorted(class_folders[name].iterdir()):
            save_wide(PIL.Image.open(path).convert("RGB"), target / f"{path.stem}.jpg", rng)
    content = {
        "kind": "cls",
        "folder": "images",
        "class_names": {f"c{number:02}": name.title() for number, name in enumerate(names)},
        "templates": ["A large {}.", "A picture of a {}.", "The main object is a {}."],
    }
    (folder / "wide.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "wide.yaml")


def write_photographs(folder: Path) -> str:
    """Write made-up photographs with labels at random, and return the path of the YAML file."""
    for number, content in enumerate(jpegs(N_PHOTOGRAPHS, (160, 120))):
        target = folder / "images" / f"{sorted(CLASSES)[number % 10]}"
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{number:03}.jpg").write_bytes(content)
    description = {"kind": "cls", "folder": "images", "templates": ["a photo of a {}"]}
    (folder / "photographs.yaml").write_text(yaml.safe_dump(description))
    return str(folder / "photographs.yaml")


def save_wide(picture: PIL.Image.Image, path: Path, rng: np.random.Generator) -> None:
    """Save a picture after cropping one side; one in five is turned, with its EXIF tag."""
    cut = int(rng.integers(8, 36))
    low = int(rng.integers(0, cut))
    width, height = picture.size
    if rng.random() < 0.5:
        picture = picture.crop((low, 0, width - cut + low, height))
    else:
        picture = picture.crop((0, low, width, height - cut + low))
    exif = PIL.Image.Exif()
    if rng.random() < 0.2:
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        picture = picture.transpose(PIL.Image.Transpose.ROTATE_90)
    picture.save(path, quality=92, exif=exif)


def inject_all(case: Case) -> Iterator[Injection]:
    """Yield every injection into a model on a data set."""
    subject_name = f"{label(case.model)} on {label(case.dataset)}, {case.metric}"
    encoder: Any = load_encoder(parse_model_spec(case.model))
    encoder = getattr(encoder, "built", encoder)
    protocol = find_protocol(case.dataset)
    data = open_dataset(protocol, OPTIONS).data
    n_whole = len(data.images)

    whole_set = make_subject(encoder, protocol, data, case.metric, n_whole, OPTIONS, no_progress)
    numbers = [*injected_numbers(whole_set), *redrawn_numbers(whole_set)]
    for n_samples in N_SAMPLES:
        subject = make_subject(
            encoder, protocol, data, case.metric, n_samples, OPTIONS, no_progress
        )
        diagnosis = prepare_diagnosis(subject_name, subject)
        for number in numbers:
            yield diagnosis.judge(number, parse_known(f"{100 * number.value:.1f}"))
            if number.outcomes is not None and case.metric != "mean_per_class_recall":
                yield diagnosis.judge(number, Known(number.value, 0.0, number.outcomes))


def injected_numbers(whole: Subject) -> list[Number]:
    """Return the number of the whole set for every injection."""
    right = whole.outcomes(whole.image_features, whole.text_features, whole.truth)
    label_faults = [
        replace(fault, seeds=OTHER_SEEDS) if isinstance(fault, ScrambleFault) else fault
        for fault in LABEL_FAULTS
    ]
    passes = encode_with_faults(
        whole, [*IMAGE_FAULTS, *OUTSIDE], TEXT_FAULTS, MODULE_FAULTS, OPTIONS, no_progress
    )
    trials = Trials(whole, passes, right, label_faults)
    numbers = []
    for fault, outcomes in trials.singles.items():
        numbers.append(Number.of_outcomes("single", (fault.name,), outcomes.values))
    for pair, outcomes in trials.pairs():
        numbers.append(Number.of_outcomes("pair", fault_names(pair), outcomes.values))
    for outside in OUTSIDE:
        if outside in passes.images:
            outcomes = trials.outcomes([outside])
            numbers.append(Number.of_outcomes("outside", (outside.name,), outcomes.values))
    rounded = whole.outcomes(*encode_in_other_precision(whole, OPTIONS), whole.truth)
    numbers.append(Number.of_outcomes("precision", ("bf16",), rounded.values))
    numbers.append(Number("precision", ("none",), whole.value, right.values))
    return numbers


def redrawn_numbers(whole: Subject) -> list[Number]:
    """Return numbers of as many other images of the same kind, drawn from outcomes."""
    outcomes = whole.right_values
    rng = np.random.default_rng(OTHER_SEEDS)
    # Two draws, since the images at hand are a draw as well.
    draws = [rng.choice(outcomes, (N_REDRAWN, len(outcomes))).mean(axis=1) for _ in range(2)]
    values = np.clip(whole.value + draws[0] - draws[1], 0, 1)
    return [Number("redrawn", ("other images",), float(value)) for value in values]


@dataclass(frozen=True)
class PreparedDiagnosis:
    """The diagnosis of a subject, whose faults were run already."""

    name: str
    subject: Subject
    hypotheses: Sequence[Hypothesis]
    # The standard deviation of the number due to precision.
    noise: float

    def judge(self, number: Number, known: Known) -> Injection:
        """Return the diagnosis of a number, of which the command would know `known`."""
        injection = Injection(
            subject=self.name,
            n_samples=len(self.subject.images),
            known="number" if known.hits is None else "file",
            kind=number.kind,
            faults=number.faults,
            verdict="",
            predicted=self.predicted_interval(number.faults),
            value=number.value,
        )
        slip = SLIP + self.noise**2 * self.subject.n_whole
        if agrees(self.subject, known, self.noise, slip):
            return replace(injection, verdict="agrees")
        if are_both_chance(self.subject, known):
            return replace(injection, verdict="chance")
        explanations, something_else = weigh(self.hypotheses, known, self.subject, slip)
        n_tied = stats.count_tied([explanation.probability for explanation in explanations])
        tied = tuple(fault_names(explanation.faults) for explanation in explanations[:n_tied])
        return replace(
            injection,
            verdict="fault" if is_any_explained(explanations, something_else) else "none",
            first=tied[0],
            tied=tied,
            probability=explanations[0].probability,
        )

    def predicted_interval(self, faults: tuple[str, ...]) -> tuple[float, float] | None:
        """Return the predicted interval of the number with faults, None if they are unknown."""
        for hypothesis in self.hypotheses:
            if fault_names(hypothesis.faults) == faults:
                return hypothesis.prediction.interval
        return None


def prepare_diagnosis(name: str, subject: Subject) -> PreparedDiagnosis:
    """Run all faults of the catalogue on the images of a subject."""
    right = subject.outcomes(subject.image_features, subject.text_features, subject.truth)
    rounded = subject.outcomes(*encode_in_other_precision(subject, OPTIONS), subject.truth)
    noise = stats.precision_noise(right.values, rounded.values, subject.n_whole)
    passes = encode_with_faults(
        subject, IMAGE_FAULTS, TEXT_FAULTS, MODULE_FAULTS, OPTIONS, no_progress
    )
    hypotheses = predict_all(Trials(subject, passes, right), noise)
    return PreparedDiagnosis(name, subject, hypotheses, noise)


def fault_names(faults: Sequence[Fault]) -> tuple[str, ...]:
    """Return the names of faults."""
    return tuple(fault.name for fault in faults)


def label(name: str) -> str:
    """Return a name without folders: `hf:x` for `hf:/tmp/x`, `wide` for `/tmp/x/wide.yaml`."""
    kind, colon, path = name.partition(":")
    return f"{kind}:{Path(path).name}" if colon else Path(name).stem


def tables(injections: Sequence[Injection]) -> Iterator[str]:
    """Yield tables in Markdown."""
    with_skill = [injection for injection in injections if "random" not in injection.subject]
    yield "## All models and sets\n\n" + markdown(all_rates(with_skill))
    yield "## By model and set\n\n" + markdown(rates_by_subject(injections))
    yield "## By fault\n\n" + markdown(confusions(with_skill))
    yield "## Numbers that no fault of the catalogue made\n\n" + markdown(other_numbers(with_skill))
    yield "## Probabilities\n\n" + markdown(calibration(with_skill))


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows with the same keys as Markdown."""
    return markdown_table(rows[0], (row.values() for row in rows), n_text_columns=1)


def share(flags: Sequence[bool]) -> str:
    """Return a share in percent."""
    return f"{100 * sum(flags) / len(flags):.0f}" if flags else "-"


def is_first(injection: Injection) -> bool:
    """Return whether the injected faults are named first, and a fault is named."""
    return injection.verdict == "fault" and set(injection.first) == set(injection.faults)


def is_tied(injection: Injection) -> bool:
    """Return whether the injected faults are first or tied with the first."""
    is_among_tied = any(set(names) == set(injection.faults) for names in injection.tied)
    return injection.verdict == "fault" and is_among_tied


def is_covered(injection: Injection) -> bool:
    """Return whether the predicted interval contains the number of the whole set."""
    assert injection.predicted is not None
    low, high = injection.predicted
    return bool(low - 1e-9 <= injection.value <= high + 1e-9)


def visible_injections(injections: Sequence[Injection]) -> list[Injection]:
    """Return the injections that are neither hidden nor at chance."""
    return [injection for injection in injections if injection.verdict in ("fault", "none")]


def select(injections: Sequence[Injection], **values: Any) -> list[Injection]:
    """Return the injections whose fields have these values."""
    return [
        injection
        for injection in injections
        if all(getattr(injection, name) == value for name, value in values.items())
    ]


def all_rates(injections: Sequence[Injection]) -> list[dict[str, str]]:
    """Return a row per kind of injection, kind of known number, and number of images."""
    rows = []
    for kind, known_kind, n_samples in product(("single", "pair"), KNOWN_KINDS, N_SAMPLES):
        group = select(injections, kind=kind, known=known_kind, n_samples=n_samples)
        visible = visible_injections(group)
        predicted = [injection for injection in group if injection.predicted is not None]
        rows.append(
            {
                "injected": "one fault" if kind == "single" else "a pair",
                "known": known_kind,
                "images": str(n_samples),
                "injections": str(len(group)),
                "hidden": share([injection.verdict == "agrees" for injection in group]),
                "first": share([is_first(injection) for injection in visible]),
                "first or tied": share([is_tied(injection) for injection in visible]),
                "none named": share([injection.verdict == "none" for injection in visible]),
                "in the interval": share([is_covered(injection) for injection in predicted]),
            }
        )
    return rows


def rates_by_subject(injections: Sequence[Injection]) -> list[dict[str, str]]:
    """Return a row per model and data set, for the larger number of images."""
    rows = []
    for subject in dict.fromkeys(injection.subject for injection in injections):
        row = {"model and set": subject}
        of_subject = select(injections, subject=subject, n_samples=N_SAMPLES[0])
        singles = select(of_subject, kind="single", known="number")
        row["faults"] = str(len(singles))
        row["at chance"] = share([injection.verdict == "chance" for injection in singles])
        row["hidden"] = share([injection.verdict == "agrees" for injection in singles])
        for kind, known_kind in product(("single", "pair"), KNOWN_KINDS):
            visible = visible_injections(select(of_subject, kind=kind, known=known_kind))
            first = share([is_first(injection) for injection in visible])
            tied = share([is_tied(injection) for injection in visible])
            row[f"{kind}, {known_kind}: first / or tied"] = f"{first} / {tied}"
        rows.append(row)
    return rows


def confusions(injections: Sequence[Injection]) -> list[dict[str, str]]:
    """Return a row per fault: how often it is named, and the faults that are named instead."""
    singles = select(injections, kind="single", known="number", n_samples=N_SAMPLES[0])
    rows = []
    for faults in dict.fromkeys(injection.faults for injection in singles):
        group = select(singles, faults=faults)
        visible = visible_injections(group)
        instead = Counter(
            " + ".join(injection.first) if injection.verdict == "fault" else "none"
            for injection in visible
            if not is_first(injection)
        )
        rows.append(
            {
                "injected": faults[0],
                "times": str(len(group)),
                "hidden": str(len(group) - len(visible)),
                "first": str(sum(map(is_first, visible))),
                "first or tied": str(sum(map(is_tied, visible))),
                "named instead": ", ".join(f"{name} {n}" for name, n in instead.most_common()),
            }
        )
    return rows


def other_numbers(injections: Sequence[Injection]) -> list[dict[str, str]]:
    """Return a row per kind of number that no fault of the catalogue made."""
    rows = []
    kinds = ("precision", "redrawn", "outside")
    for kind, known_kind, n_samples in product(kinds, KNOWN_KINDS, N_SAMPLES):
        group = select(injections, kind=kind, known=known_kind, n_samples=n_samples)
        if not group:
            continue
        explained = select(group, verdict="fault")
        of_catalogue = [
            injection for injection in explained if tuple(injection.first) != ("other images",)
        ]
        without_tie = [injection for injection in of_catalogue if len(injection.tied) == 1]
        rows.append(
            {
                "number": kind,
                "known": known_kind,
                "images": str(n_samples),
                "numbers": str(len(group)),
                "agrees": share([injection.verdict == "agrees" for injection in group]),
                "none": share([injection.verdict == "none" for injection in group]),
                "other images": f"{100 * (len(explained) - len(of_catalogue)) / len(group):.0f}",
                "a fault": f"{100 * len(of_catalogue) / len(group):.0f}",
                "a fault without a tie": f"{100 * len(without_tie) / len(group):.0f}",
            }
        )
    return rows


def calibration(injections: Sequence[Injection]) -> list[dict[str, str]]:
    """Return a row per range of the first explanation's probability.

    All numbers of a kind about one subject share the prior probability of the kind. The share of a
    number is its weight.
    """
    in_prior = [injection for injection in injections if injection.kind in PRIORS]
    n_by_group = Counter(map(group_of, in_prior))
    rows = []
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 1.01)):
        row = {"probability of the first": f"{100 * low:.0f} to {min(100 * high, 100):.0f}"}
        for known_kind in KNOWN_KINDS:
            group = [
                injection
                for injection in select(in_prior, known=known_kind, verdict="fault")
                if low <= injection.probability < high
            ]
            weights = [
                PRIORS[injection.kind] / n_by_group[group_of(injection)] for injection in group
            ]
            probabilities = [injection.probability for injection in group]
            is_right = [is_first(injection) for injection in group]
            row[f"{known_kind}: mean"] = weighted_percent(probabilities, weights)
            row[f"{known_kind}: right"] = weighted_percent(is_right, weights)
        rows.append(row)
    return rows


def weighted_percent(shares: Sequence[float], weights: Sequence[float]) -> str:
    """Return the weighted mean of shares in percent, "-" without any."""
    return f"{100 * np.average(shares, weights=weights):.0f}" if shares else "-"


def group_of(injection: Injection) -> tuple[str, int, str, str]:
    """Return the key of the group of numbers that share a prior probability."""
    return injection.subject, injection.n_samples, injection.known, injection.kind


if __name__ == "__main__":
    main()
