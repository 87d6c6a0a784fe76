"""The errors that users see, of both packages."""


class CosmosEvalError(Exception):
    """An error for users: one line that says what is wrong, where, and what to do about it."""


class UsageError(CosmosEvalError):
    """An error in the user's input or options. The command line ends with status 2."""
