"""Few shots, base and new classes by the rules of CoOp (Zhou et al. 2022, arXiv 2109.01134).

A zero-shot classifier is compared with a linear probe and a cache model (Tip-Adapter) of 1 to 16
training images per class, among all classes and, as CoCoOp does (arXiv 2203.05557), among the first
half of the classes, the base classes. The new classes have no training images: only the zero-shot
classifier knows them, and a cache of base classes adds the same to the logits of all new classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data.class_names import (
    ClassData,
    class_names,
    resolve_templates,
    templates_of,
)
from cosmos_eval.data.folders import fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.estimates import Features, Ints
from cosmos_eval.tasks.probe.cache import CacheModel, Constants, zero_shot_classes
from cosmos_eval.tasks.probe.coop_metrics import (
    CACHE,
    CACHE_BASE,
    CLASSES,
    IN_HALF,
    LABELS,
    LINEAR,
    LINEAR_BASE,
    SHOTS,
    ZERO_SHOT,
)
from cosmos_eval.tasks.probe.draws import Draw, count_base_classes, draw_shots
from cosmos_eval.tasks.probe.fits import Probe

LEAST_CLASSES = 4
"""With fewer classes, one half has a single class, which leaves nothing to choose."""


class CoopData(NamedTuple):
    """The images of a data set, and which of them each draw trains on."""

    # The training images that any draw takes.
    train: ClassData
    # The validation images, on which constants are chosen; None if the data set has none.
    validation: ClassData | None
    test: ClassData
    # The draws by number of shots and seed. Training rows are rows of `train`.
    draws: tuple[tuple[Draw, ...], ...]

    @property
    def found_samples(self) -> types.FoundSamples | None:
        """How many test images there are, if a known data set is incomplete; otherwise None."""
        return self.test.found_samples


def draw_seeds(protocol: types.ProbeProtocol) -> list[int]:
    """Return the seeds of the draws, which are the same for all runs: 1, 2, 3..."""
    return list(range(1, protocol.draws + 1))


def draw_data(
    protocol: types.ProbeProtocol, train: ClassData, validation: ClassData | None, test: ClassData
) -> CoopData:
    """Draw the images of every number of shots and seed, and keep only drawn training images.

    Args:
        protocol: The numbers of shots and of draws.
        train: All training images, in the order of their published list.
        validation: All validation images, or None.
        test: The test images.
    """
    validation_labels = None if validation is None else validation.labels
    draws = []
    for shots in protocol.shots:
        draws_of_shots = []
        for seed in draw_seeds(protocol):
            draws_of_shots.append(draw_shots(train.labels, validation_labels, shots, seed))
        draws.append(draws_of_shots)

    return _keep_drawn_images(draws, train, validation, test)


def _keep_drawn_images(
    draws: Sequence[Sequence[Draw]],
    train: ClassData,
    validation: ClassData | None,
    test: ClassData,
) -> CoopData:
    """Return the data with only the training images that are in a draw.

    Args:
        draws: The draws by number of shots and seed, with rows of `train`.
        train: All training images.
        validation: All validation images. If it is None, held-out images are training images too.
        test: The test images.
    """
    used_rows = []
    for draw in chain.from_iterable(draws):
        used_rows.append(draw.training_rows)
        if validation is None:
            used_rows.append(draw.held_out_rows)
    kept_rows = np.unique(np.concatenate(used_rows))

    renumbered_draws = []
    for draws_of_shots in draws:
        renumbered_draws_of_shots = []
        for draw in draws_of_shots:
            held_out_rows = draw.held_out_rows
            if validation is None:
                held_out_rows = np.searchsorted(kept_rows, held_out_rows)
            training_rows = np.searchsorted(kept_rows, draw.training_rows)
            renumbered_draws_of_shots.append(Draw(training_rows, held_out_rows))
        renumbered_draws.append(tuple(renumbered_draws_of_shots))
    kept_train = train.select(kept_rows.tolist())
    return CoopData(kept_train, validation, test, tuple(renumbered_draws))


def require_halves(
    protocol: types.ProbeProtocol, validation: ClassData | None, test: ClassData
) -> None:
    """Raise UsageError for fewer than two base or new classes, and for a split without base ones.

    Args:
        protocol: The data set.
        validation: All validation images, or None.
        test: The test images.
    """
    n_classes = len(test.classes)
    if n_classes < LEAST_CLASSES:
        raise types.UsageError(
            f"{protocol.dataset} has {n_classes} classes: base and new classes need two each"
        )
    n_base = count_base_classes(n_classes)
    for name, split in (("val", validation), ("test", test)):
        if split is not None and not (split.labels < n_base).any():
            raise types.UsageError(
                f"{protocol.dataset}: the split `{name}` needs an image of the first {n_base} "
                "classes, the base classes"
            )


class Problem(NamedTuple):
    """A choice among C classes, with L labelled images to learn from and N images to classify."""

    # (L, D) and (L,): the training images, and after them the validation images if there are any.
    features: Features
    labels: Ints
    # (V,) rows of the validation images.
    validation_rows: Ints
    # (N, D)
    test_features: Features
    # (C, D)
    class_embeddings: Features
    # The draws by number of shots and seed, as rows of `features`.
    draws: list[list[Draw]]

    def of_base_classes(self, test_labels: Ints) -> Problem:
        """Return the same problem among the first half of the classes.

        `test_labels` (N,) are the classes of the images to classify.
        """
        n_base = count_base_classes(len(self.class_embeddings))
        is_base = self.labels < n_base
        new_row = np.cumsum(is_base) - 1  # of every row that is kept

        def keep(rows: Ints) -> Ints:
            """Return the new numbers of the rows of base classes."""
            kept_rows: Ints = new_row[rows[is_base[rows]]]
            return kept_rows

        draws = []
        for draws_of_shots in self.draws:
            draws.append([Draw(*map(keep, draw)) for draw in draws_of_shots])
        return Problem(
            self.features[is_base],
            self.labels[is_base],
            keep(self.validation_rows),
            self.test_features[test_labels < n_base],
            self.class_embeddings[:n_base],
            draws,
        )


class _Predictions(NamedTuple):
    """The predictions after S numbers of shots in D draws, and the constants that were chosen."""

    # (S, N, D) classes
    linear: NDArray[np.integer]
    cache: NDArray[np.integer]
    # For each number of shots, the constants of each draw.
    c_values: dict[str, list[float]]
    alphas: dict[str, list[float]]
    betas: dict[str, list[float]]
    # Whether all fits of linear probes converged.
    converged: bool


def _learn(
    problem: Problem,
    protocol: types.ProbeProtocol,
    device: str,
    report: Callable[[], None],
) -> _Predictions:
    """Fit a linear probe and make a cache model for every draw, and classify the test images.

    C of the linear probe is chosen on the held-out images of the draw, as CoOp's lpclip does, and
    alpha and beta of the cache on all validation images, as Tip-Adapter does. Without validation
    images, alpha and beta are the published ones.

    Args:
        problem: The classes, the images and the draws.
        protocol: The candidates of constants.
        device: The device that fits run on.
        report: Called after every draw.
    """
    probe = Probe(protocol, problem.features, problem.labels, problem.test_features, 0, device)
    linear, cache = [], []
    c_values: dict[str, list[float]] = {}
    alphas: dict[str, list[float]] = {}
    betas: dict[str, list[float]] = {}
    for shots, draws in zip(protocol.shots, problem.draws, strict=True):
        for draw in draws:
            rows = draw.training_rows
            predicted, c = probe.choose_and_fit(rows, draw.held_out_rows, rows)
            linear.append(predicted)
            c_values.setdefault(str(shots), []).append(c)

            model = CacheModel(
                problem.class_embeddings, problem.features[rows], problem.labels[rows], device
            )
            constants = _choose_constants(model, problem, protocol)
            cache.append(model.predict(problem.test_features, constants))
            alphas.setdefault(str(shots), []).append(constants.alpha)
            betas.setdefault(str(shots), []).append(constants.beta)
            report()
    shape = (len(protocol.shots), protocol.draws, len(problem.test_features))
    return _Predictions(
        np.stack(linear).reshape(shape).transpose(0, 2, 1),
        np.stack(cache).reshape(shape).transpose(0, 2, 1),
        c_values,
        alphas,
        betas,
        probe.converged,
    )


def _choose_constants(
    model: CacheModel, problem: Problem, protocol: types.ProbeProtocol
) -> Constants:
    """Return the constants of a cache model that are best on the validation images.

    Without validation images, return the published constants.
    """
    rows = problem.validation_rows
    if not len(rows):
        return Constants(protocol.cache_alpha, protocol.cache_beta)
    greatest_beta, greatest_alpha = protocol.cache_search
    return model.search(problem.features[rows], problem.labels[rows], greatest_beta, greatest_alpha)


class CoopMeasurement(NamedTuple):
    """The samples of a measurement, and what a result records beside them."""

    samples: types.Samples
    # The SHA-256s of all images, in the order of training, validation and test images.
    image_sha256s: list[bytes]
    # How classifiers were fitted.
    record: dict[str, Any]
    seconds: dict[str, float]
    notes: list[str]


def measure_coop(
    encoder: Encoder,
    protocol: types.ProbeProtocol,
    test_split: types.ClassificationProtocol,
    data: CoopData,
    options: types.RunOptions,
    progress: types.OnProgress,
) -> CoopMeasurement:
    """Embed the images and classes of a data set, and classify its test images.

    Args:
        encoder: The model.
        protocol: The protocol: the numbers of shots, and how constants are chosen.
        test_split: The protocol of the test images, which has the names and prompts of classes.
        data: The images and the draws.
        options: The options of the run.
        progress: Called with the number of embedded images and of draws that are measured.
    """
    from cosmos_eval.embedding.embed import embed_images
    from cosmos_eval.tasks.prompts import prompt_embeddings

    started = perf_counter()
    class_embeddings = prompt_embeddings(
        encoder,
        class_names(test_split, data.test),
        templates_of(test_split, data.test),
        options,
        progress,
    )
    prompts_done = perf_counter()
    labelled = [data.train] if data.validation is None else [data.train, data.validation]
    labelled_embeddings = [
        embed_images(encoder, split.images, options, progress) for split in labelled
    ]
    test = embed_images(encoder, data.test.images, options, progress)
    images_done = perf_counter()

    problem = _make_problem(
        data,
        np.concatenate([embeddings.features for embeddings in labelled_embeddings]),
        test.features,
        class_embeddings,
    )
    n_steps = 2 * len(protocol.shots) * protocol.draws
    n_done = 0

    def report() -> None:
        """Report that another draw is measured."""
        nonlocal n_done
        n_done += 1
        progress(types.Progress("few shots", n_done, n_steps))

    labels = data.test.labels
    base_problem = problem.of_base_classes(labels)
    device = encoder.info.device
    predictions = _learn(problem, protocol, device, report)
    base_predictions = _learn(base_problem, protocol, device, report)
    samples = _make_samples(protocol, data.test, problem, predictions, base_predictions)

    sha256s = [sha256 for embeddings in labelled_embeddings for sha256 in embeddings.image_sha256s]
    return CoopMeasurement(
        samples=samples,
        image_sha256s=[*sha256s, *test.image_sha256s],
        record=_record(protocol, data, predictions, base_predictions),
        seconds={
            "prompts": prompts_done - started,
            "images": images_done - prompts_done,
            "probes": perf_counter() - images_done,
        },
        notes=[*_notes(data, has_converged=predictions.converged and base_predictions.converged)],
    )


def _notes(data: CoopData, *, has_converged: bool) -> Iterator[str]:
    """Yield notes on how classifiers were fitted.

    Args:
        data: The images and the draws.
        has_converged: True if all fits of linear probes converged.
    """
    if not has_converged:
        yield "a fit of a probe ended before it converged"
    if data.validation is None:
        yield (
            "no validation images: C is chosen on other training images, and alpha and beta of "
            "the cache are the published ones"
        )


def _make_problem(
    data: CoopData, features: Features, test_features: Features, class_embeddings: Features
) -> Problem:
    """Return the choice among all classes.

    Args:
        data: The images and the draws.
        features: The features of the training images, followed by the features of the validation
            images.
        test_features: The features (N, D) of the test images.
        class_embeddings: The embeddings (C, D) of the classes.
    """
    n_training = len(data.train.labels)
    if data.validation is None:
        return Problem(
            features,
            data.train.labels,
            np.zeros(0, np.int64),
            test_features,
            class_embeddings,
            [list(draws) for draws in data.draws],
        )
    # The rows of validation images follow those of training images.
    draws = []
    for draws_of_shots in data.draws:
        moved_draws = []
        for draw in draws_of_shots:
            moved_draws.append(Draw(draw.training_rows, draw.held_out_rows + n_training))
        draws.append(moved_draws)
    return Problem(
        features,
        np.concatenate([data.train.labels, data.validation.labels]),
        np.arange(n_training, len(features)),
        test_features,
        class_embeddings,
        draws,
    )


def _make_samples(
    protocol: types.ProbeProtocol,
    test: ClassData,
    problem: Problem,
    predictions: _Predictions,
    base_predictions: _Predictions,
) -> types.Samples:
    """Return the arrays to store with a result.

    Args:
        protocol: The numbers of shots.
        test: The N test images.
        problem: The choice among all classes.
        predictions: The predictions among all classes.
        base_predictions: The predictions among base classes, for the images of base classes.
    """
    labels = test.labels
    features, embeddings = problem.test_features, problem.class_embeddings
    n_base = count_base_classes(len(embeddings))
    is_base = labels < n_base
    in_half = np.zeros_like(labels)
    in_half[is_base] = zero_shot_classes(features[is_base], embeddings[:n_base])
    in_half[~is_base] = zero_shot_classes(features[~is_base], embeddings[n_base:]) + n_base
    correct, correct_base = labels[:, None], labels[is_base][:, None]  # against (S, N or B, D)
    return {
        LABELS: labels,
        SHOTS: np.array(protocol.shots),
        CLASSES: np.array(test.classes),
        ZERO_SHOT: zero_shot_classes(features, embeddings),
        IN_HALF: in_half,
        LINEAR: predictions.linear == correct,
        CACHE: predictions.cache == correct,
        LINEAR_BASE: base_predictions.linear == correct_base,
        CACHE_BASE: base_predictions.cache == correct_base,
    }


def _record(
    protocol: types.ProbeProtocol,
    data: CoopData,
    predictions: _Predictions,
    base_predictions: _Predictions,
) -> dict[str, Any]:
    """Return how classifiers were fitted, as a result records it.

    It is the draws, the numbers of images, and the constants that were chosen.
    """
    n_validation = 0 if data.validation is None else len(data.validation.images)
    return {
        "draw_seeds": draw_seeds(protocol),
        "drawn_training_images": len(data.train.images),
        "validation_images": n_validation,
        "linear_probe_C": predictions.c_values,
        "linear_probe_base_C": base_predictions.c_values,
        "cache_alpha": predictions.alphas,
        "cache_beta": predictions.betas,
        "cache_base_alpha": base_predictions.alphas,
        "cache_base_beta": base_predictions.betas,
    }


def hash_constants(
    protocol: types.ProbeProtocol, test_split: types.ClassificationProtocol, test: ClassData
) -> str:
    """Return the hash of all constants, names and templates that decide the metrics."""
    return fingerprint(
        [
            protocol.shots,
            draw_seeds(protocol),
            protocol.c_values,
            protocol.cache_search,
            protocol.cache_alpha,
            protocol.cache_beta,
            class_names(test_split, test),
            resolve_templates(templates_of(test_split, test)),
        ]
    )


def known_splits(protocol: types.ProbeProtocol) -> Mapping[str, types.ClassificationProtocol]:
    """Return the protocols of the training, validation and test images by the split's name.

    A known data set states them. A user's data set has them in one file.
    """
    if protocol.splits is not None:
        names = ("train", "val", "test") if len(protocol.splits) == 3 else ("train", "test")
        return dict(zip(names, protocol.splits, strict=True))
    splits = {}
    for name in ("train", "val", "test"):
        splits[name] = types.ClassificationProtocol(
            dataset=protocol.dataset,
            protocol_name=protocol.protocol_name,
            root=protocol.root,
            folder=protocol.images,
            split_file=protocol.split_file,
            split=name,
            templates=protocol.templates,
        )
    return splits
