"""Lists of what can be named on the command line. Imports no torch."""

from collections import defaultdict
from itertools import chain
from typing import Any

from cosmos_eval.models.specs import BUNDLED, RELEASED
from cosmos_eval.protocols import described_sets, known_families, named_protocols
from cosmos_eval.protocols.declared import read_yaml
from cosmos_eval.tasks import known_tasks, name_faults, packages_of, task_named
from cosmos_eval.types import Suite, UsageError, base_family

Record = dict[str, str]

FAMILIES: dict[str, str] = read_yaml("families")
"""What the numbers of a family can be compared with."""


def models() -> list[Record]:
    """List bundled and released models, and the forms that name any other."""
    kinds = {
        **dict.fromkeys(BUNDLED, "bundled"),
        **{f"cosmos:{name}": f"released, {arch}" for name, arch in RELEASED.items()},
        "cosmos:PATH": "a COSMOS checkpoint; --arch where it does not state its architecture",
        "openclip:ARCH/TAG": "a pretrained OpenCLIP model; TAG `random`: random weights",
        "openclip:ARCH/PATH": "an OpenCLIP checkpoint",
        "openclip:FOLDER": "a folder in OpenCLIP's hub layout, as `cosmos-train export` writes it",
        "openclip:hf-hub:ORG/NAME": "a repository of the Hugging Face hub in that layout",
        "hf:FOLDER, hf:ORG/NAME[@REVISION]": "a model of transformers with two towers",
        "python:FILE.py": "a model of your own: the file's load(device, precision) makes it",
    }
    return [{"model": name, "kind": kind} for name, kind in kinds.items()]


def tasks() -> list[Record]:
    """List all tasks, the metrics that tables show, and the packages that bring them."""
    records = []
    for name in known_tasks():
        bringer = " ".join(chain(*packages_of(name).items())) or "cosmos-eval"
        try:
            shown = ", ".join(task_named(name).headlines)
        except UsageError as error:
            shown = str(error)
        records.append({"task": name, "shown": shown, "brought by": bringer})
    for name, fault in name_faults().items():
        records.append({"task": name, "shown": fault, "brought by": ""})
    return records


def datasets() -> list[Record]:
    """List known data sets with their task and usual protocol family."""
    return [
        {"dataset": name, "task": protocol.task, "protocol": protocol.family}
        for name, protocol in {**named_protocols(), **described_sets()}.items()
    ]


def protocols() -> list[Record]:
    """List protocol families, what their numbers can be compared with, and their data sets."""
    families = {name: known_families(name) for name in (*named_protocols(), *described_sets())}
    of_pairs = {
        family: f"itself: `{base_family(family)}`, scored by a PairScorer, {_scored(protocol)}"
        for own in families.values()
        for family, protocol in own.items()
        if family != base_family(family)
    }
    return [
        {
            "protocol": family,
            "comparable with": comparable,
            "datasets": ", ".join(name for name, own in families.items() if family in own),
        }
        for family, comparable in {**FAMILIES, **of_pairs}.items()
    ]


def _scored(protocol: Any) -> str:
    return "all pairs" if protocol.pairs == "all" else f"the best {protocol.pairs} of each query"


def suites() -> list[Record]:
    """List the suites of this package: members, tasks, the rule of the mean, and the source."""
    from cosmos_eval.runner.suites import known_suites, read_suite  # which imports NumPy

    return [_suite(read_suite(name)) for name in known_suites()]


def _suite(suite: Suite) -> Record:
    sets: dict[str, list[str]] = {}
    for protocol in suite.protocols:
        sets.setdefault(protocol.family, []).append(protocol.dataset)
    counts: dict[str, float] = defaultdict(float)
    for member in suite.members:
        counts[" and ".join(member.metrics)] += member.weight
    metrics = ", ".join(f"{names} ({count:g})" for names, count in counts.items())
    lacking = f"; left out: {', '.join(suite.left_out)}" if suite.left_out else ""
    return {
        "suite": suite.name,
        "models": str(len(suite.models)) if suite.models else "--model",
        "members": suite.present(len(suite.members or suite.protocols)),
        "tasks": ", ".join(dict.fromkeys(protocol.task for protocol in suite.protocols)),
        "score": f"mean of {metrics}" if metrics else "none",
        "datasets": "; ".join(f"{f}: {', '.join(names)}" for f, names in sets.items()) + lacking,
        "source": suite.source,
    }


LISTS = {listed.__name__: listed for listed in (models, tasks, datasets, protocols, suites)}
