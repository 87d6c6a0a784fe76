"""The version, the one place that states it."""

__version__ = "1.1.0"
