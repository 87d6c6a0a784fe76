"""Bundled models. They are built when embeddings are missing in the cache.

Their identity is read without torch."""

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
    public_members,
)
from cosmos_eval.models.specs import BUNDLED, local_weights
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Return an encoder of a bundled model, which is built when it is first used.

    Only the header of its file is read here.

    Args:
        spec: The specification of the model, such as the one of "scenes-clip".
        device: The device that the model will be on.
        precision: The precision that it will compute in.

    Raises:
        UsageError: If the installation lacks the file.
    """
    files = local_weights(spec)
    if not files:
        bundled = nearest(spec.name, BUNDLED)
        raise UsageError(f"'{spec.name}' is not part of this installation; bundled: {bundled}")
    path = files[0]
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    config = json.loads(metadata["architecture"])

    def build(lazy_encoder: Any) -> Encoder:
        """Load the model. This is the getter of `lazy_encoder.built`."""
        from cosmos_eval.models import cosmos  # imports torch

        return cosmos.load(spec, device, precision)

    # Make an encoder whose attribute `built` is the model's encoder. All other methods and
    # attributes are taken from it: `encoder.encode_image` is `encoder.built.encode_image`. The
    # class has the members of the interfaces of the model, so that `isinstance` does not build it.
    is_cosmos = metadata["model"] == "cosmos"
    interfaces = (CrossAttentionEncoder, PairScorer) if is_cosmos else (DenseEncoder,)
    members: dict[str, Any] = {"built": cached_property(build)}
    for interface in interfaces:
        for name in public_members(interface):
            members[name] = cached_property(attrgetter(f"built.{name}"))
    lazy_class = type(f"Bundled{interfaces[0].__name__}", (), members)
    encoder: Any = lazy_class()

    # Describe the model for results and for the cache of embeddings.
    encoder.info = EncoderInfo(
        spec=spec.text,
        architecture=json.dumps(config, sort_keys=True),
        weights=spec.weights,
        weights_sha256=file_sha256(path),
        random=False,
        precision=precision,
        device=device,
    )
    # Everything else that decides the inputs is code, which is part of the identity of embeddings.
    image_size = config["vision_cfg"]["image_size"]
    encoder.preprocessing = {"image_size": image_size, **config.get("preprocess", {})}
    encoder.tokenizer = {
        "merges_sha256": file_sha256(path.with_name("scenes_merges.txt.gz")),
        "context_length": config["text_cfg"]["context_length"],
    }
    return encoder
