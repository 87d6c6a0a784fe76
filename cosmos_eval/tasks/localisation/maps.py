"""Maps of all classes of a set over images, as shares that sum to 1 over the patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cosmos_eval.models.encoder import DenseEncoder, Encoder
from cosmos_eval.models.maps import heatmaps_of_features, usual_kind, with_cross_attention
from cosmos_eval.tasks.label_maps.measure import with_patches
from cosmos_eval.tasks.prompts import prompt_embeddings, prompt_queries
from cosmos_eval.types import Attention, LocalisationProtocol, MapKind, OnProgress, RunOptions


class Mapper(NamedTuple):
    """A model, the kind of its maps, and the features (Q, D) of all names of the classes.

    `names_of_class` (C, Q) holds the share of every name in its class's map.
    """

    encoder: DenseEncoder
    kind: MapKind
    attention: Attention
    scale: float
    features: Tensor
    names_of_class: Tensor


class Chosen(NamedTuple):
    """A model that has the kind of map that a protocol asks for, and that kind."""

    encoder: DenseEncoder
    kind: MapKind


def choose(encoder: Encoder, protocol: LocalisationProtocol, attention: Attention) -> Chosen:
    """The kind of map that a model is measured by. Raises UsageError where it has none such."""
    kind = protocol.map or usual_kind(encoder)
    if kind == "cross-attention":
        return Chosen(with_cross_attention(encoder), kind)
    return Chosen(with_patches(encoder, attention), kind)


def make_mapper(
    chosen: Chosen,
    protocol: LocalisationProtocol,
    attention: Attention,
    options: RunOptions,
    progress: OnProgress,
) -> Mapper:
    """Encode the names of all classes. A name's feature is the mean over templates."""
    names = [name for synonyms in protocol.queries for name in synonyms]
    encoder, templates = chosen.encoder, protocol.templates
    if chosen.kind == "cross-attention":
        asked = with_cross_attention(encoder)
        features = prompt_queries(asked, names, templates, options, progress)
    else:
        features = prompt_embeddings(encoder, names, templates, options, progress)
    return Mapper(
        encoder,
        chosen.kind,
        attention,
        protocol.scale,
        torch.from_numpy(features),
        _names_of_class([len(synonyms) for synonyms in protocol.queries]),
    )


def _names_of_class(counts: Sequence[int]) -> Tensor:
    """Equal shares of the names of every class, (C, Q)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    shares = np.zeros((len(counts), len(owner)))
    shares[owner, np.arange(len(owner))] = 1 / np.asarray(counts)[owner]
    return torch.from_numpy(shares)


def class_maps(mapper: Mapper, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) -> maps of all classes (B, C, h, w) float64, which sum to 1.

    Of a class with several names the mean of their maps, over heads as well: of cross-attention its
    weights, of similarity the cosines, which a softmax over the patches then makes shares.
    """
    maps = heatmaps_of_features(
        mapper.encoder, images, mapper.features, kind=mapper.kind, attention=mapper.attention
    )
    mean = torch.einsum("cq,bqhw->bchw", mapper.names_of_class, maps.double().mean(dim=2))
    if mapper.kind == "cross-attention":
        return mean
    return (mapper.scale * mean).flatten(2).softmax(-1).view_as(mean)
