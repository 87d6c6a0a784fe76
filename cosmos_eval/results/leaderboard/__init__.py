"""Results side by side: one table per protocol family, never two families in one ranking."""
