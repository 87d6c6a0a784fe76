"""Ranks of all positives of a query: by image, by text, or by an image and a text that changes it.

A query may have several positives, as in ECCV Caption (Chun et al. 2022, arXiv 2204.03359),
revisited Oxford and Paris (Radenovic et al. 2018, arXiv 1803.11285), CIRCO (Baldrati et al. 2023,
arXiv 2303.15247) and UnED (Ypsilantis et al. 2023, arXiv 2309.01858). Every metric follows from the
stored ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import ranking as ranking_data
from cosmos_eval.data.folders import Survey, all_exist, content_hash, fingerprint
from cosmos_eval.data.ranking import RankingData, Search
from cosmos_eval.models.encoder import ComposingEncoder
from cosmos_eval.stats import ranking as stats
from cosmos_eval.stats.estimates import Mean
from cosmos_eval.stats.ranking import Ints
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.models.encoder import Encoder

# Stored arrays of Q queries with P positives.
CLUSTER = "cluster"  # (Q,) queries with the same number depend on each other
DIRECTION = "direction"  # (Q,) such as `image_to_text`; empty if there is one kind of query
QUERY = "query"  # (P,) index of each positive's query, which rises
RANK = "rank"  # (P,) rank of each positive in its gallery without junk, which rises in a query
ITEM = "item"  # (P,) index of each positive in its gallery; -1 if the gallery lacks it
METRICS = "metrics"  # names of the metrics that the protocol reports, without the direction
IS_HARD = "is_hard"  # (P,) whether a positive of revisited Oxford or Paris is hard
SUBSET_RANK = "subset_rank"  # (P,) rank of each positive in CIRR's subset
ARRAYS = (
    SampleArray(CLUSTER, "whole number", ("queries",), least=0),
    SampleArray(DIRECTION, "text", ("queries",)),
    SampleArray(QUERY, "whole number", ("positives",), least=0, below="queries"),
    SampleArray(RANK, "whole number", ("positives",), least=1),
    SampleArray(ITEM, "whole number", ("positives",), least=-1),
    SampleArray(METRICS, "text", (None,)),
    SampleArray(IS_HARD, "truth value", ("positives",), optional=True),
    SampleArray(SUBSET_RANK, "whole number", ("positives",), least=1, most=6, optional=True),
)
_RANKS = "ranks"  # derived: for each query, the ranks (p,) of its positives
_SUBSET_RANKS = "subset_ranks"  # derived: the same in the subset
_N_POSITIVES = "n_positives"  # (Q,) not stored: the number of positives of each query
_HARD = "hard"  # derived: for each query, whether each positive is hard
_DIRECTIONS = ("", "image_to_text", "text_to_image")

QueryValue = Callable[[Ints], float] | Callable[[Ints, int], float]
"""Returns the value of a metric for a query from the ranks (p,) of its positives, which rise. The
value at a cutoff also takes the cutoff k."""


def ranks_of_setup(ranks: Ints, is_hard: NDArray[np.bool_], setup: str) -> Ints:
    """Return the ranks of the positives of revisited Oxford and Paris in one of its setups.

    Args:
        ranks: (p,), the ranks of easy and hard positives, without junk.
        is_hard: (p,), whether each of them is hard.
        setup: `medium`: both are positives. `easy`: hard ones are junk. `hard`: easy ones are junk.

    Example:
        The ranks [1, 2, 5], of which the first is hard, become [1, 4] in the setup `easy`.
    """
    if setup == "medium":
        return ranks
    is_kept = is_hard if setup == "hard" else ~is_hard
    n_removed_before = np.cumsum(~is_kept)
    kept_ranks: Ints = (ranks - n_removed_before)[is_kept]
    return kept_ranks


class QueryMetric:
    """A metric that is the mean of a value of each query, over the queries of a direction."""

    def __init__(
        self,
        name: str,
        direction: str,
        value: QueryValue,
        k: int | None = None,
        setup: str = "",
        array: str = _RANKS,
    ) -> None:
        """Keep what the metric is computed from.

        Args:
            name: Its name in protocols, such as `R@5`.
            direction: The direction of its queries, or an empty text.
            value: Returns the value of a query.
            k: The cutoff of the value, such as 5; None if it has none.
            setup: The setup of revisited Oxford and Paris, if it has one.
            array: The derived array with the ranks of each query.
        """
        self._name = name
        self._direction = direction
        self._value: Callable[..., float] = value
        self._cutoff = () if k is None else (k,)
        self._setup = setup
        self._array = array

    def estimate(self, samples: Derived) -> Mean | None:
        """Return the mean; None if the protocol does not report it or no query has a value."""
        is_reported = self._name in samples[METRICS].tolist()
        if not is_reported or self._array not in samples:
            return None
        values, clusters = [], []
        for query in np.flatnonzero(samples[DIRECTION] == self._direction).tolist():
            ranks = samples[self._array][query]
            if self._setup:
                ranks = ranks_of_setup(ranks, samples[_HARD][query], self._setup)
            if len(ranks):  # a query without positives in a setup is left out, as published
                values.append(self._value(ranks, *self._cutoff))
                clusters.append(samples[CLUSTER][query])
        return Mean(np.array(values), np.array(clusters)) if values else None


def _precision_at_r(ranks: Ints) -> float:
    """Return the average precision at R, the number of positives."""
    return stats.average_precision_at(ranks, len(ranks))


def _metrics_of(direction: str) -> Iterator[Metric]:
    """Yield the metrics of a direction, in the order of tables."""
    yield _metric_of("mAP@R", direction, _precision_at_r, is_primary=True)
    yield _metric_of("R-precision", direction, stats.r_precision)
    for k in (1, 5, 10):
        yield _metric_of(f"R@{k}", direction, stats.recall_at, k, is_primary=k in (1, 10))
    if not direction:  # no set with two directions reports them
        yield _metric_of("R@50", direction, stats.recall_at, 50)
        for k in (5, 10, 25, 50):
            yield _metric_of(
                f"mAP@{k}", direction, stats.average_precision_at, k, is_primary=k == 5
            )


def _metric_of(
    name: str, direction: str, value: QueryValue, k: int | None = None, *, is_primary: bool = False
) -> Metric:
    """Return a metric of a direction. The arguments are as in `QueryMetric`."""
    prefix = f"{direction}_" if direction else ""
    return Metric(
        prefix + name,
        QueryMetric(name, direction, value, k).estimate,
        label=f"{direction.replace('_', ' ')} {name}".strip(),
        primary=is_primary,
        headline=True,
    )


def _metrics_of_images() -> Iterator[Metric]:
    """Yield the metrics that only searches for images by images have."""
    for k in (1, 2, 3):
        metric = QueryMetric(f"R_subset@{k}", "", stats.recall_at, k, array=_SUBSET_RANKS)
        yield Metric(f"R_subset@{k}", metric.estimate, primary=k == 1, headline=True)
    for setup in ("medium", "hard", "easy"):
        name = f"mAP_{setup}"
        metric = QueryMetric(name, "", stats.interpolated_average_precision, setup=setup)
        yield Metric(
            name, metric.estimate, label=f"mAP {setup}", primary=setup != "easy", headline=True
        )
    for setup in ("medium", "hard", "easy"):
        name = f"mP@10_{setup}"
        metric = QueryMetric(name, "", stats.precision_at, 10, setup=setup)
        yield Metric(name, metric.estimate, label=f"mP@10 {setup}")
    metric = QueryMetric("mMP@5", "", stats.modified_precision_at, 5)
    yield Metric("mMP@5", metric.estimate, primary=True, headline=True)


class Ranking(Task):
    """The ranks of all positives of queries by images, texts, or both."""

    protocol = types.RankingProtocol
    metrics = (
        *(metric for direction in _DIRECTIONS for metric in _metrics_of(direction)),
        *_metrics_of_images(),
    )
    truth = (QUERY, CLUSTER)
    per_sample = CLUSTER
    checked = "queries, positives and their numbers, and that every image is there"
    arrays = ARRAYS

    def open_data(self, protocol: types.RankingProtocol, options: types.RunOptions) -> RankingData:
        """List the queries of a data set, their positives, and the galleries."""
        return ranking_data.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.RankingProtocol],
        data: Sequence[RankingData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        A measurement holds the rank of every positive.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured.
            data: The queries and galleries of each protocol, from `open_data`.
            options: The options of the run. If their `limit` is set, only the first queries are
                measured, in whole galleries.
            progress: Called with the progress.
        """
        from cosmos_eval.embedding.embed import ImageEmbedder, embed_texts

        embedder = ImageEmbedder(encoder, options, progress)
        for protocol, queries in zip(protocols, data, strict=True):
            images = embedder.embed(queries.images)
            captions = None
            notes = []
            if queries.captions:
                captions = embed_texts(
                    encoder, queries.captions, options, progress, phase="captions"
                )
                if n_cut := int(captions.cut.sum()):
                    notes.append(
                        f"{n_cut} of {len(queries.captions)} captions did not fit the model's "
                        "context and were cut"
                    )
            features = _QueryFeatures(
                encoder, protocol, queries, images.features, captions, options, progress
            )
            yield self.measurement(
                _rank_searches(protocol, queries, features),
                options,
                content=content_hash(images.image_sha256s),
                sample_list=ranking_data.sample_list(queries),
                settings=features.settings(),
                notes=notes,
                unit="queries of each kind",
            )

    def data_hashes(
        self, protocol: types.RankingProtocol, data: RankingData, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images' files, and of the queries."""
        from cosmos_eval.embedding.hashing import hash_images

        content = content_hash(hash_images(data.images, options))
        return {"sample_list": fingerprint(ranking_data.sample_list(data)), "content": content}

    def derive(self, samples: types.Samples) -> Derived:
        """Add the ranks of each query's positives, and whether they are hard."""
        ends = np.searchsorted(samples[QUERY], np.arange(1, len(samples[CLUSTER])))
        derived: dict[str, Any] = dict(samples)
        derived[_RANKS] = np.split(samples[RANK], ends)
        is_hard = samples.get(IS_HARD, np.zeros(len(samples[RANK]), np.bool_))
        derived[_HARD] = np.split(is_hard.astype(np.bool_), ends)
        if SUBSET_RANK in samples:
            derived[_SUBSET_RANKS] = np.split(samples[SUBSET_RANK], ends)
        return derived

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for a query without positives, and for ranks that do not rise."""
        query, rank = samples[QUERY], samples[RANK]
        n_positives = np.bincount(query, minlength=len(samples[CLUSTER]))
        if not n_positives.all():
            raise ValueError(f"query {n_positives.argmin()} has no positive in `{QUERY}`")
        is_same_query = np.diff(query) == 0
        if (np.diff(query) < 0).any() or (np.diff(rank)[is_same_query] <= 0).any():
            raise ValueError(f"`{RANK}` does not rise among the positives of a query")

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with one row per positive: its query, item and rank, by their names."""
        columns = {DIRECTION: samples[DIRECTION][samples[QUERY]]}
        for name in (QUERY, ITEM, RANK, IS_HARD, SUBSET_RANK):
            if name in samples:
                columns[name] = samples[name]
        return columns

    def survey(
        self,
        protocol: types.RankingProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        """Count the images and queries of the lists, and report missing images."""
        return ranking_data.list_data(protocol, options).complete_survey(protocol, options)

    def is_there(self, protocol: types.RankingProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the lists and the images."""
        required_paths = [protocol.annotations, protocol.images]
        if protocol.gallery:
            required_paths.append(protocol.gallery)
        return all_exist(root, *required_paths)

    def n_samples(self, protocol: types.RankingProtocol) -> int | None:
        """Return the number of queries of the complete data set, or None if it is unknown."""
        return protocol.n_queries


class _QueryFeatures:
    """Makes the features of queries from the features of images and texts."""

    def __init__(
        self,
        encoder: Encoder,
        protocol: types.RankingProtocol,
        data: RankingData,
        image_features: Features,
        captions: Embeddings | None,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> None:
        """Keep the model, the data, and the features (I, D) of images and (M, D) of texts."""
        self.encoder = encoder
        self.protocol = protocol
        self.data = data
        self.image_features = image_features
        self.captions = captions
        self.options = options
        self.progress = progress

    def settings(self) -> dict[str, Any]:
        """Return what a result records: how images and texts are composed, if any are."""
        queries = [query for search in self.data.searches for query in search.queries]
        if not any(query.image is not None and query.text is not None for query in queries):
            return {}
        if isinstance(self.encoder, ComposingEncoder):
            return {"composition": self.encoder.composition}
        return {"composition": f"{types.SUM_OF_FEATURES}{self.protocol.text_weight:g}"}

    def gallery(self, search: Search) -> Features:
        """Return the features (G, D) of the items of a gallery."""
        if not search.has_captions:
            return self.image_features[search.gallery]
        assert self.captions is not None
        return self.captions.features[search.gallery]

    def of(self, search: Search) -> Features:
        """Return the features (Q, D) of the queries of a search."""
        features = np.empty((len(search.queries), self.image_features.shape[1]), np.float32)
        composed = []
        for row, query in enumerate(search.queries):
            if query.text is None:
                features[row] = self.image_features[query.image]
            elif query.image is None:
                assert self.captions is not None
                features[row] = self.captions.features[query.text]
            else:
                composed.append(row)
        if composed:
            features[composed] = self._compose(search, composed)
        return features

    def _compose(self, search: Search, rows: Sequence[int]) -> Features:
        """Return the features (n, D) of the queries in some rows, which have image and text."""
        from cosmos_eval.embedding import composed

        assert self.captions is not None
        images, texts = [], []
        for row in rows:
            query = search.queries[row]
            assert query.image is not None
            assert query.text is not None
            images.append(query.image)
            texts.append(query.text)
        if isinstance(self.encoder, ComposingEncoder):
            return composed.compose(
                self.encoder,
                [self.data.images[image] for image in images],
                [self.data.captions[text] for text in texts],
                self.options,
                self.progress,
            )
        return composed.sum_of_features(
            self.image_features[images], self.captions.features[texts], self.protocol.text_weight
        )


def _rank_searches(
    protocol: types.RankingProtocol, data: RankingData, query_features: _QueryFeatures
) -> types.Samples:
    """Rank the positives of all queries, and return the arrays to store by name.

    Args:
        protocol: The protocol, whose metrics are stored.
        data: The searches.
        query_features: Gives the features of queries and galleries.
    """
    samples_of_searches = []
    for search in data.searches:
        features, gallery = query_features.of(search), query_features.gallery(search)
        samples_of_searches.append(_rank_search(search, features, gallery))

    samples: dict[str, NDArray[Any]] = {METRICS: np.array(protocol.metrics)}
    for name in samples_of_searches[0]:
        samples[name] = np.concatenate([arrays[name] for arrays in samples_of_searches])
    n_positives = samples.pop(_N_POSITIVES)
    samples[QUERY] = np.repeat(np.arange(len(n_positives)), n_positives)
    if protocol.layout != "revisited":
        del samples[IS_HARD]
    return samples


def _rank_search(search: Search, features: Features, gallery: Features) -> dict[str, NDArray[Any]]:
    """Rank the positives of the queries of a search.

    Positives that the gallery lacks follow all its items. Their index is -1.

    Args:
        search: The queries.
        features: (Q, D), the features of the queries.
        gallery: (G, D), the features of the items.

    Returns:
        The arrays by name, with the number of positives of each query in place of `query`.
    """
    queries = search.queries
    positives = [query.positives for query in queries]
    rankings = stats.rank_positives(features, gallery, positives, [query.junk for query in queries])
    ranks, items, is_hard = [], [], []
    for query, ranking in zip(queries, rankings, strict=True):
        unranked = np.arange(query.n_unranked)
        ranks += [ranking.ranks, len(gallery) + 1 + unranked]
        items += [ranking.items, np.full(query.n_unranked, -1)]
        hard_items = query.positives[query.is_hard]
        is_hard += [np.isin(ranking.items, hard_items), np.zeros(query.n_unranked, np.bool_)]
    arrays: dict[str, NDArray[Any]] = {
        CLUSTER: np.array([query.cluster for query in queries]),
        DIRECTION: np.array([search.direction] * len(queries)),
        RANK: np.concatenate(ranks),
        ITEM: np.concatenate(items),
        IS_HARD: np.concatenate(is_hard),
        _N_POSITIVES: np.array([len(query.positives) + query.n_unranked for query in queries]),
    }
    has_subsets = queries[0].subset.size > 0
    if has_subsets:
        all_items = np.arange(len(gallery))
        outside = [np.setdiff1d(all_items, query.subset) for query in queries]
        subset_rankings = stats.rank_positives(features, gallery, positives, outside)
        arrays[SUBSET_RANK] = np.concatenate([ranking.ranks for ranking in subset_rankings])
    return arrays


TASK = Ranking()
