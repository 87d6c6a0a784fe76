"""Results side by side: one table per protocol, never two protocols in one ranking."""
