"""`cosmos-eval cache`: info and clear."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_json, print_line, print_records

if TYPE_CHECKING:
    from cosmos_eval.embedding.cache import Space

app = typer.Typer(help="Show or clear the cache of embeddings.")


@app.command("info")
def info(json: options.Json = False) -> None:
    """Show where embeddings are cached, how many of which models, and the size on disk."""
    from cosmos_eval.embedding.cache import embeddings_folder, limit_bytes, spaces

    folder, limit = embeddings_folder(), limit_bytes()
    cached = spaces(folder)
    size = sum(space.size for space in cached)
    if json:
        content = {"folder": str(folder), "bytes": size, "limit_bytes": limit}
        print_json({**content, "spaces": [space._asdict() for space in cached]})
        return
    if cached:
        print_records([_row(space) for space in cached])
    print_line(f"{folder}: {size / 1e6:.1f} MB of {limit / 1e9:g} GB")


@app.command("clear")
def clear(json: options.Json = False) -> None:
    """Remove all cached embeddings; the next run that needs them computes them again."""
    from cosmos_eval.embedding import cache

    folder = cache.embeddings_folder()
    removed = cache.clear(folder)
    print_records([{"folder": str(folder), "removed_bytes": removed}], as_json=json)


def _row(space: Space) -> dict[str, str]:
    identity = space.identity
    architecture = str(identity.get("architecture", ""))
    used = datetime.fromtimestamp(space.used, timezone.utc)
    return {
        "of": str(identity.get("role", "unknown")),
        # A JSON configuration instead of a name is too long for a table.
        "architecture": architecture if architecture[:1] != "{" else "from JSON",
        "weights": str(identity.get("weights_sha256", ""))[:8],
        "precision": str(identity.get("precision", "")),
        "embeddings": str(space.embeddings),
        "MB": f"{space.size / 1e6:.1f}",
        "used (UTC)": f"{used:%Y-%m-%d %H:%M}",
    }
