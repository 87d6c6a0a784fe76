"""All kinds of input that are fuzzed; here checkpoints, results and baselines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from support import fuzzed_hubs, fuzzed_images, fuzzed_samples, fuzzed_sets
from support.fuzzed_images import measure, prepare_images
from support.fuzzed_sets import same_numbers
from support.fuzzing import Kind, Outcome, alter, damage, misplace, run_command


def _prepare_checkpoint(folder: Path) -> None:
    import torch

    from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
    from cosmos_core.model.build import create_model
    from cosmos_core.model.checkpoint import save_checkpoint

    prepare_images(folder)
    size = {"layers": 1, "width": 16}
    text = {"context_length": 16, "vocab_size": scenes_tokenizer().vocab_size, "heads": 2, **size}
    image = {"image_size": 32, "patch_size": 16, "head_width": 8, **size}
    architecture = {"embed_dim": 16, "vision_cfg": image, "text_cfg": text}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = {name: create_model(architecture) for name in ("student", "teacher")}
    save_checkpoint(folder / "model.safetensors", models, "cosmos", architecture, None)


def _mutate_checkpoint(rng: Random, folder: Path) -> str:
    path = folder / "model.safetensors"
    chance = rng.random()
    if chance < 0.25:
        return damage(rng, path)
    if chance < 0.3:
        return misplace(rng, path)
    header, data = _split(path)
    metadata = header["__metadata__"]
    if chance < 0.6:
        architecture = json.loads(metadata["architecture"])
        done = alter(rng, architecture)
        metadata["architecture"] = json.dumps(architecture)
    elif chance < 0.8:
        done = alter(rng, metadata)
    elif chance < 0.9:
        done = alter(rng, header)
    else:
        start, stop = header["teacher.visual.proj"]["data_offsets"]
        odd = np.array(rng.choice((np.nan, np.inf, -np.inf)), np.float32).tobytes()
        place = rng.randrange(start, stop, 4)
        data, done = data[:place] + odd + data[place + 4 :], "a weight that is not finite"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return f"model.safetensors: {done}"


def _judge_checkpoint(
    copy: Path, pristine: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    """Compare with the tensors of the file, read without safetensors."""
    import cosmos_core

    ours = _tensors(copy / "model.safetensors")
    if any(not np.isfinite(ours[name]).all() for name in ours if name.startswith("teacher.")):
        yield "there are weights that are not finite"
    loaded = cosmos_core.load_model(copy / "model.safetensors").state_dict()
    different = [
        name
        for name, values in loaded.items()
        if not np.array_equal(values.numpy(), ours.get(f"teacher.{name}", np.empty(0)))
    ]
    extra = [n for n in ours if n.startswith("teacher.") and n[8:] not in loaded]
    if different or extra:
        yield f"not the weights of the file: {(different + extra)[:3]}"
    theirs = _tensors(pristine / "model.safetensors")
    same = all(np.array_equal(ours[n], theirs[n]) for n in theirs if n in ours and "teacher" in n)
    if same and _stated(copy) == _stated(pristine):
        yield from same_numbers(copy, pristine, outcome, reference)


def _split(path: Path) -> tuple[Any, bytes]:
    """The header and the data of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _stated(folder: Path) -> Any:
    header, _ = _split(folder / "model.safetensors")
    return {**header["__metadata__"], "training": None}


def _tensors(path: Path) -> Mapping[str, np.ndarray]:
    header, data = _split(path)
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in kinds:
            values = np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]])
            found[name] = values.reshape(entry["shape"])
    return found


def _prepare_results(tasks: tuple[str, ...], folder: Path) -> None:
    from support.models import store

    for number, task in enumerate(tasks):
        store(folder / "results", task, seed=number + 1)


def _prepare_baseline(folder: Path) -> None:
    _prepare_results(("cls", "retrieval"), folder)
    made = run_command([*_check(folder), "--update", "--reason", "fuzzing"], folder)
    if made.status:
        raise AssertionError(made)


def _check(folder: Path) -> list[str]:
    return ["check", str(folder / "results"), "--baseline", str(folder / "baseline.json")]


def _mutate_record(below: str, rng: Random, folder: Path) -> str:
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and below in str(p)))
    chance = rng.random()
    if chance < 0.25 or (path.suffix != ".json" and chance < 0.9):
        return damage(rng, path)
    if chance < 0.3 or path.suffix != ".json":
        return misplace(rng, path)
    text = path.read_text()
    if chance < 0.4:  # as anybody's editor may write it
        form = rng.choice(({"indent": 4}, {"separators": (",", ":")}, {"sort_keys": False}))
        path.write_text(json.dumps(json.loads(text), **form))
        return f"{path.name}: written anew with {form}"
    content = json.loads(text)
    done = alter(rng, content)
    path.write_text(json.dumps(content))
    return f"{path.name}: {done}"


def _judge_records(copy: Path, pristine: Path, _: Outcome, __: Outcome) -> Iterator[str]:
    """Nothing that was changed may pass; another spelling of the same JSON may."""
    ours, theirs = _contents(copy), _contents(pristine)
    changed = [name for name in theirs if ours.get(name) != theirs[name]]
    if changed or ours.keys() != theirs.keys():
        yield f"it passes, though {changed or ours.keys() ^ theirs.keys()} was changed"


def _judge_tables(copy: Path, pristine: Path, outcome: Outcome, _: Outcome) -> Iterator[str]:
    """What was changed may be shown, but not without a word."""
    shown = outcome.out + outcome.err
    ours, theirs = _contents(copy), _contents(pristine)
    for name in ours.keys() & theirs.keys():
        if name.endswith(".json") and ours[name] != theirs[name] and "edited" not in shown:
            yield f"nothing says that {name} was edited"


def _contents(folder: Path) -> dict[str, str]:
    found = {}
    for path in (p for p in folder.rglob("*") if p.is_file() and "out" not in p.parts):
        content = path.read_bytes()
        # JSON is spelled out, since 1 == 1.0 == True.
        text = json.dumps(json.loads(content), sort_keys=True) if path.suffix == ".json" else None
        found[str(path.relative_to(folder))] = text or content.hex()
    return found


def _tables(*command: str) -> Kind:
    def arguments(folder: Path) -> list[str]:
        return [word.format(folder) for word in command]

    prepare = partial(_prepare_results, ("cls", "retrieval"))
    return Kind(command[0], prepare, partial(_mutate_record, ".json"), arguments, _judge_tables)


def _results(task: str) -> Kind:
    return Kind(
        f"result {task}",
        partial(_prepare_results, (task,)),
        partial(_mutate_record, "results"),
        lambda folder: ["verify", str(folder / "results")],
        _judge_records,
        reports=True,
        verdicts=(1,),
    )


_evaluate = partial(measure, "set.yaml", model="cosmos:{}/model.safetensors")
_mutate_baseline = partial(_mutate_record, "baseline")
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *fuzzed_images.KINDS,
        *fuzzed_sets.KINDS,
        *fuzzed_hubs.KINDS,
        Kind("checkpoint", _prepare_checkpoint, _mutate_checkpoint, _evaluate, _judge_checkpoint),
        *map(
            _results,
            (
                *("retrieval", "cls", "multilabel", "faces", "seg", "select", "loc", "assoc"),
                *("probe", "ood", "ratings", "boxes", "ranking"),
            ),
        ),
        *fuzzed_samples.KINDS,
        _tables("leaderboard", "{}/results", "--format", "md"),
        _tables("export", "{}/results", "--output", "{}/out/table.csv"),
        _tables("report", "{}/results", "--no-pictures", "--output", "{}/out/page.html"),
        Kind("baseline", _prepare_baseline, _mutate_baseline, _check, _judge_records, reports=True),
    )
}
"""By name."""
