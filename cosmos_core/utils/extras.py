"""Packages that only some commands need, and the extras of the installation that bring them."""


def missing_package(user: str, package: str, extra: str) -> str:
    """Return a message: something needs a package that is not installed, and what to type.

    Args:
        user: The command or function that needs the package, such as "cosmos-eval report".
        package: The name of the package, such as "vl-convert".
        extra: The extra of cosmos-eval that brings it, such as "report".

    Example:
        These arguments give "cosmos-eval report needs vl-convert: pip install
        'cosmos-eval[report]'", in one line.
    """
    return f"{user} needs {package}: pip install 'cosmos-eval[{extra}]'"
