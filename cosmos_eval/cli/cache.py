"""`cosmos-eval cache`: info and clear."""

from __future__ import annotations

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import JsonOption

app = typer.Typer(help="Embeddings that are kept, so that no run computes them again.")


@app.command("info")
def info(json: JsonOption = False) -> None:
    """Show where embeddings are kept, how many of which models, and how much room they may take."""
    from cosmos_eval.embedding.cache import embeddings_folder, limit_bytes, spaces

    folder = embeddings_folder()
    display.show_cache(folder, limit_bytes(), spaces(folder), as_json=json)


@app.command("clear")
def clear(json: JsonOption = False) -> None:
    """Remove all kept embeddings; whatever needs them computes them again."""
    from cosmos_eval.embedding.cache import clear as remove
    from cosmos_eval.embedding.cache import embeddings_folder

    folder = embeddings_folder()
    removed = remove(folder)
    display.show_records([{"folder": str(folder), "removed_bytes": removed}], as_json=json)
