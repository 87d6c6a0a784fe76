"""Data sets to be fuzzed: YAML files of users, and lists in every form that is read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml
from support.fuzzed_images import COLOURS, FORMATS, SAMPLES, measure, prepare_images
from support.fuzzing import Kind, Outcome, alter, damage, misplace

ODD_YAML = (
    *("&a [*a]", "2020-99-99", "9" * 6000, "0x_", "!!int abc", "!!python/name:os.system", "*none"),
    *("[" * 500, "{a: " * 500, "!!binary '*'", '"\\ud800"', '"\\0"', "? [a]", "1e999", ".nan"),
    *("&a [x,x,x,x,x,x,x,x,x,x]\nb: [*a,*a]", "|\n  text", "yes", "~", "<<: {}", "\t", "---"),
)
SETS = {
    "cls": {"kind": "cls", "folder": "photos", "templates": ["a {}.", "{} photo"]},
    "names": {"kind": "cls", "folder": "photos", "class_names": {c: f"very {c}" for c in COLOURS}},
    "list": {"kind": "retrieval", "images": "photos", "annotations": "captions.json"},
    "rows": {
        "kind": "retrieval",
        "images": ["photos"],
        "annotations": ["captions.csv"],
        "image_key": "image",
        "caption_key": "caption",
        "captions_per_image": 1,
    },
    "lines": {"kind": "retrieval", "images": "photos", "annotations": "captions.jsonl"},
    "karpathy": {"kind": "retrieval", "images": "photos", "annotations": "karpathy.json"},
    "coco": {"kind": "retrieval", "images": "photos", "annotations": "coco.json"},
    "items": {
        "kind": "select",
        "images": "photos",
        "annotations": "items.json",
        "layout": "items",
        "subset_key": "kind",
        "template": "a photo of {}",
    },
    "aro": {"kind": "select", "images": "photos", "annotations": "aro.json", "layout": "aro"},
}
LISTS = ("captions.json", "captions.csv", "captions.jsonl", "karpathy.json", "coco.json")
LIST_OF = {"items": "items.json", "aro": "aro.json"} | dict(
    zip(("list", "rows", "lines", "karpathy", "coco"), LISTS, strict=True)
)


def _prepare_sets(folder: Path) -> None:
    prepare_images(folder)
    for name, content in SETS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    names = [f"{c}/{n}.{f.lower()}" for (n, c), f in zip(SAMPLES, FORMATS, strict=True)]
    rows = [{"image": name, "caption": f"{name[:3]} {name}"} for name in names]
    for name, content in _lists(names, rows).items():
        (folder / name).write_text(json.dumps(content))
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = io.StringIO()
    writer = csv.DictWriter(table, ("image", "caption"))
    writer.writeheader()
    writer.writerows(rows)
    (folder / "captions.csv").write_text(table.getvalue())


def _lists(names: list[str], rows: list[dict[str, str]]) -> dict[str, Any]:
    captions = [row["caption"] for row in rows]
    coco = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    notes = [{"id": n, "image_id": n, "caption": caption} for n, caption in enumerate(captions)]
    karpathy, aro = [], []
    box = {"bbox_x": 1, "bbox_y": 1, "bbox_w": 5, "bbox_h": 4}
    for name, caption in zip(names, captions, strict=True):
        folder, file = name.split("/")
        image = {"filepath": folder, "filename": file, "split": "test"}
        karpathy.append({**image, "sentences": [{"raw": caption}]})
        choice = {"true_caption": caption, "false_caption": "grey", "relation_name": "on"}
        aro.append({"image_path": name, **choice, **box})
    return {
        "captions.json": rows,
        "coco.json": {"images": coco, "annotations": notes},
        "karpathy.json": {"images": karpathy},
        "items.json": [{**row, "negative": "grey", "kind": row["image"][:1]} for row in rows],
        "aro.json": aro,
    }


def _mutate_yaml(name: str, rng: Random, folder: Path) -> str:
    path = folder / f"{name}.yaml"
    chance = rng.random()
    if chance < 0.3:
        return damage(rng, path)
    if chance < 0.35:
        return misplace(rng, path)
    if chance < 0.6:
        lines = path.read_text().splitlines()
        lines[rng.randrange(len(lines))] = f"{rng.choice(list(SETS[name]))}: {rng.choice(ODD_YAML)}"
        path.write_text("\n".join(lines))
        return f"{name}.yaml: {lines!r:.120}"
    content = json.loads(json.dumps(SETS[name]))
    change = alter(rng, content)
    # Written as JSON, which is YAML, too: safe_dump would refuse or correct some odd values.
    path.write_text(json.dumps(content))
    return f"{name}.yaml: {change}"


def _judge_yaml(
    name: str, copy: Path, _: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    try:
        content = yaml.safe_load((copy / f"{name}.yaml").read_text("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        yield f"PyYAML refuses it: {error!r:.80}"
        return
    if content == SETS[name] and content.get("name", name) == name:
        yield from same_numbers(copy, copy, outcome, reference)
    elif not isinstance(content, dict) or content.get("kind") != SETS[name]["kind"]:
        yield f"it is no data set: {content!r:.80}"
    else:
        yield from _plausible(outcome, len(SAMPLES))


def _mutate_list(name: str, rng: Random, folder: Path) -> str:
    path = folder / LIST_OF[name]
    chance = rng.random()
    if chance < 0.35 or (path.suffix == ".csv" and chance < 0.9):
        return damage(rng, path)
    if chance < 0.4 or path.suffix == ".csv":
        return misplace(rng, path)
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        change = alter(rng, rows)
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        content = json.loads(path.read_text())
        change = alter(rng, content)
        path.write_text(json.dumps(content))
    return f"{path.name}: {change}"


def _judge_list(
    name: str, copy: Path, pristine: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    path = copy / LIST_OF[name]
    if _parsed(path) == _parsed(pristine / path.name):
        yield from same_numbers(copy, pristine, outcome, reference)
    else:
        # Items of one image may be listed more often than there are images.
        yield from _plausible(outcome, len(SAMPLES) + 1)


def _parsed(path: Path) -> Any:
    try:
        if path.suffix == ".csv":
            return list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text("utf-8-sig").split("\n") if line]
        return json.loads(path.read_bytes())
    except ValueError as error:
        return error


def _sets(
    prefix: str, names: Iterator[str] | tuple[str, ...], mutate: Any, judge: Any
) -> Iterator[Kind]:
    """Yield a kind of input for each of several data sets."""
    for name in names:
        yield Kind(
            f"{prefix} {name}",
            _prepare_sets,
            partial(mutate, name),
            partial(measure, f"{name}.yaml"),
            partial(judge, name),
        )


def same_numbers(copy: Path, pristine: Path, outcome: Outcome, reference: Outcome) -> Iterator[str]:
    """Yield what differs in results that must be those of the untouched input."""
    for result, expected in zip(outcome.results, reference.results, strict=True):
        for field in ("metrics", "n_samples", "per_class", "intervals"):
            if result[field] != expected[field]:
                yield f"another number: {field} {result[field]}, not {expected[field]}"


def _plausible(outcome: Outcome, max_samples: int) -> Iterator[str]:
    """Yield what cannot be right in the result of an input that is valid, but was changed.

    There must be one result, of at most `max_samples` samples.
    """
    if len(outcome.results) != 1:
        yield f"{len(outcome.results)} results"
        return
    (result,) = outcome.results
    if not 0 < result["n_samples"] <= max_samples:
        yield f"n_samples {result['n_samples']} of {max_samples}"


KINDS = (
    *_sets("yaml", tuple(SETS), _mutate_yaml, _judge_yaml),
    *_sets("list", tuple(LIST_OF), _mutate_list, _judge_list),
)
