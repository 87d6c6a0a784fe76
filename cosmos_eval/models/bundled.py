"""Bundled models, built only where embeddings are not cached: who they are needs no torch."""

import json
from functools import cached_property
from operator import attrgetter
from typing import Any

from safetensors import safe_open

from cosmos_core.utils.files import file_sha256
from cosmos_eval.models.encoder import (
    CrossAttentionEncoder,
    DenseEncoder,
    Encoder,
    PairScorer,
    methods,
)
from cosmos_eval.models.specs import BUNDLED, local_weights
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Return an encoder that builds its model when it is first used."""
    path = next(iter(local_weights(spec)), None)
    if path is None:
        known = nearest(spec.name, BUNDLED)
        raise UsageError(f"'{spec.name}' is not part of this installation; bundled: {known}")
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    config = json.loads(metadata["architecture"])

    def build(_: Any) -> Encoder:
        from cosmos_eval.models import cosmos

        return cosmos.load(spec, device, precision)

    crossed = metadata["model"] == "cosmos"
    kinds = (CrossAttentionEncoder, PairScorer) if crossed else (DenseEncoder,)
    names = {name for kind in kinds for name in methods(kind)}
    members = {name: cached_property(attrgetter(f"built.{name}")) for name in names}
    members["built"] = cached_property(build)
    encoder: Any = type(f"Bundled{kinds[0].__name__}", (), members)()
    described, digest = json.dumps(config, sort_keys=True), file_sha256(path)
    encoder.info = EncoderInfo(spec.text, described, spec.weights, digest, False, precision, device)
    # All else that decides the inputs is code, which is part of the identity of embeddings.
    size, context = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    merges = file_sha256(path.with_name("scenes_merges.txt.gz"))
    encoder.preprocessing = {"image_size": size, **config.get("preprocess", {})}
    encoder.tokenizer = {"merges_sha256": merges, "context_length": context}
    return encoder
