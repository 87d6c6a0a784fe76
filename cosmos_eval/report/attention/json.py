"""Rows as records for JSON: every number that a picture is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cosmos_eval.report.attention.records import CaptionShares, Look, Row, View
from cosmos_eval.report.attention.words import title


def to_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A record a row, with one a model and kind, with one a head, in their order."""
    return [
        {
            "image": row.name,
            "text": row.text,
            "width": row.size[0],
            "height": row.size[1],
            "looks": [_look(row, look) for look in row.looks],
        }
        for row in rows
    ]


def _look(row: Row, look: Look) -> dict[str, Any]:
    return {
        "model": look.info.spec,
        "architecture": look.info.architecture,
        "weights": look.info.weights,
        "weights_sha256": look.info.weights_sha256,
        "precision": look.info.precision,
        "device": look.info.device,
        "kind": look.kind,
        "shown_as": title(look),
        "attention": look.attention,
        "heads": [_view(row, view) for view in look.views],
    }


def _view(row: Row, view: View) -> dict[str, Any]:
    return {
        "head": view.head or None,
        "map": view.map.tolist(),
        "peak": view.peak(row.size)._asdict(),
        "caption": None if view.caption is None else _caption(view.caption),
    }


def _caption(caption: CaptionShares) -> Mapping[str, Any]:
    return {
        "words": [{**word._asdict(), "level": word.level} for word in caption.words],
        "unread": caption.unread,
        "last_word_in_part": caption.halved,
        "start": caption.start,
        "end": caption.end,
        "padding": caption.padding,
        "tokens": caption.tokens,
        "context": caption.context,
    }
