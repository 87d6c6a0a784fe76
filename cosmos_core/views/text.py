"""Caption views: global ones of several sentences, local ones of a single sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cosmos_core.config import TextViewConfig
from cosmos_core.types import EVERY_VIEW, ViewCounts

JOINT = ". "  # between the sentences of a global view


def caption_views(
    sentences: Sequence[str],
    config: TextViewConfig,
    rng: np.random.Generator,
    counts: ViewCounts = EVERY_VIEW,
) -> list[str]:
    """Global views first, then locals; ValueError for an empty list of sentences.

    A global joins n ~ U{1..max_sentences} sentences drawn without replacement. Locals are single
    sentences without replacement; the list repeats only when it is too short.
    """
    if not sentences:
        raise ValueError("a sample without captions")
    views = []
    for _ in range(counts.global_texts):
        count = min(int(rng.integers(1, config.max_sentences + 1)), len(sentences))
        chosen = rng.choice(len(sentences), size=count, replace=False)
        views.append(JOINT.join(sentences[i] for i in chosen))
    locals_ = config.locals if counts.local_texts else 0
    rounds = -(-locals_ // len(sentences))
    order = np.concatenate([rng.permutation(len(sentences)) for _ in range(max(rounds, 1))])
    return views + [sentences[i] for i in order[:locals_]]
