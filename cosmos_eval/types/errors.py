"""The errors that users see."""

from cosmos_core.utils.errors import CosmosEvalError, UsageError

__all__ = ["CosmosEvalError", "UsageError"]
