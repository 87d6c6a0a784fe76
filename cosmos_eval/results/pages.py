"""Common parts of the pages of this package: scripts, and the policy by which they run."""

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files

TABLE_SCRIPTS = ("common", "tables", "state")
"""The scripts of pages whose tables sort, in the order in which they run. They are in `static`."""


def read_static(package: str, name: str) -> str:
    """Return the text of a file in the folder `static` of a package.

    Example:
        read_static("cosmos_eval.results", "tables.js")
    """
    return files(package).joinpath("static", name).read_text("utf-8")


def join_scripts(texts: Iterable[str]) -> str:
    """Return scripts as one function that runs, so that they leave no names in the page's window.

    Args:
        texts: The texts of the scripts, each with a line break at its end. Scripts use the names
            that earlier ones define.
    """
    scripts = "\n".join(texts)
    return f'(() => {{\n"use strict";\n{scripts}}})();\n'


def security_policy(style: str, *scripts: str) -> str:
    """Return the content security policy of a page, which keeps out everything that is foreign.

    Under it, a browser loads nothing but pictures in the page, the text of one style sheet and the
    texts of the scripts. The texts are allowed by their hashes.
    """
    style_hash = _policy_hash(style)
    script_hashes = " ".join(_policy_hash(script) for script in scripts)
    return (
        f"default-src 'none'; img-src data:; style-src {style_hash}; "
        f"script-src {script_hashes}; base-uri 'none'; form-action 'none'"
    )


def _policy_hash(text: str) -> str:
    """Return the hash by which a policy allows a style sheet or script: "'sha256-...'"."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
