"""Lists of what can be named on the command line. Imports no torch."""

from collections import defaultdict
from itertools import chain
from typing import Any

from cosmos_eval.models.specs import BUNDLED, RELEASED
from cosmos_eval.protocols import described_sets, known_families, named_protocols
from cosmos_eval.tasks import known_tasks, packages_of, task_of
from cosmos_eval.types import MAPS, Suite, UsageError, base_family

Record = dict[str, str]

# What the numbers of a family can be compared with.
FAMILIES = {
    "cosmos": "the evaluation code of COSMOS, github.com/ExplainableML/cosmos",
    "karpathy": "CLIP Benchmark's and OpenCLIP's tables of retrieval",
    "long": "Long-CLIP's figures (urban1k, sharegpt4v-1k), and itself: captions as published",
    "long-joined": "LoTLIP's and FLAIR's figures of long captions, whose sentences they join",
    "long-sentences": "itself; FLAIR's fine-grained figures (docci, iiw) are of scored pairs of it",
    "clip-benchmark": "CLIP Benchmark's and OpenCLIP's tables of classification (wds/: the former)",
    "datacomp": "DataComp's and OpenCLIP's tables of DataComp's evaluation sets",
    "scenes": "the embedded scenes of this version",
    "probe": "itself: probes of frozen features on splits of torchvision",
    "fixed-names": "itself: `cosmos` without the faults in its lists of names",
    "sclip": "published numbers of github.com/wangf3014/SCLIP",
    "clearclip": "published numbers of ClearCLIP, arXiv 2407.12442",
    "naclip": "published numbers of github.com/sinahmr/NACLIP",
    "open-vocabulary": "itself: settings of `cosmos` on sets that its code does not have",
    "mess": "MESS, arXiv 2306.15521: its sets, class names and mean IoU",
    "localisation": "itself: attention mass and pointing of every model's own maps",
    **{f"localisation-{name}": f"itself: the same of maps: {kind}" for name, kind in MAPS.items()},
    "sugarcrepe": "SugarCrepe, arXiv 2306.14610, and CLIP Benchmark's sugar_crepe",
    "winoground": "Winoground, arXiv 2204.03162, and CLIP Benchmark's winoground",
    "mmvp": "MMVP-VLM, arXiv 2401.06209",
    "aro": "ARO, arXiv 2210.01936",
    "sugarcrepe-pp": "SugarCrepe++, arXiv 2406.11171",
    "svo-probes": "itself: which image fits better; SVO-Probes' paper asks whether one fits",
    "valse": "pairwise accuracy of VALSE, arXiv 2112.07566",
    "whatsup": "What'sUp, arXiv 2310.19785",
    "negbench": "NegBench, arXiv 2501.09425",
    "colorswap": "ColorSwap, arXiv 2402.04492",
    "bivlc": "BiVLC, arXiv 2406.09952",
    "eqben": "itself: the public tenth of EqBen, arXiv 2303.14465",
    "user": "your own data sets",
}


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
            shown = ", ".join(known_tasks()[name].headlines)
        except UsageError as error:
            shown = str(error)
        records.append({"task": name, "shown": shown, "brought by": bringer})
    return records


def datasets() -> list[Record]:
    """List known data sets with their task and usual protocol family."""
    return [
        {"dataset": name, "task": task_of(protocol), "protocol": protocol.family}
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
        "tasks": ", ".join(dict.fromkeys(map(task_of, suite.protocols))),
        "score": f"mean of {metrics}" if metrics else "none",
        "datasets": "; ".join(f"{f}: {', '.join(names)}" for f, names in sets.items()) + lacking,
        "source": suite.source,
    }


LISTS = {listed.__name__: listed for listed in (models, tasks, datasets, protocols, suites)}
