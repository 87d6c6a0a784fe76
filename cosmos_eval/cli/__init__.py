"""cosmos_eval.cli."""
