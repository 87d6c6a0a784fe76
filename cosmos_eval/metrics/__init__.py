"""cosmos_eval.metrics."""
