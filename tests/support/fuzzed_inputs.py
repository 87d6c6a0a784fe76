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
    architecture = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 16,
            "head_width": 8,
            "layers": 1,
            "width": 16,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": scenes_tokenizer().vocab_size,
            "heads": 2,
            "layers": 1,
            "width": 16,
        },
    }
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
        change = alter(rng, architecture)
        metadata["architecture"] = json.dumps(architecture)
    elif chance < 0.8:
        change = alter(rng, metadata)
    elif chance < 0.9:
        change = alter(rng, header)
    else:
        start, stop = header["teacher.visual.proj"]["data_offsets"]
        weight = np.array(rng.choice((np.nan, np.inf, -np.inf)), np.float32).tobytes()
        offset = rng.randrange(start, stop, 4)
        data = data[:offset] + weight + data[offset + 4 :]
        change = "a weight that is not finite"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return f"model.safetensors: {change}"


def _judge_checkpoint(
    copy: Path, pristine: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    """Compare the loaded weights with the tensors of the file, which are read without safetensors.

    If no weight of the teacher was changed, the numbers must be those of the untouched checkpoint.
    """
    import cosmos_core

    tensors = _teacher_tensors(copy / "model.safetensors")
    if any(not np.isfinite(values).all() for values in tensors.values()):
        yield "there are weights that are not finite"
    loaded = cosmos_core.load_model(copy / "model.safetensors").state_dict()
    different = [
        name
        for name, values in loaded.items()
        if not np.array_equal(values.numpy(), tensors.get(name, np.empty(0)))
    ]
    not_loaded = [name for name in tensors if name not in loaded]
    if different or not_loaded:
        yield f"not the weights of the file: {(different + not_loaded)[:3]}"
    pristine_tensors = _teacher_tensors(pristine / "model.safetensors")
    same_weights = all(
        np.array_equal(tensors[name], values)
        for name, values in pristine_tensors.items()
        if name in tensors
    )
    if same_weights and _metadata(copy) == _metadata(pristine):
        yield from same_numbers(copy, pristine, outcome, reference)


def _split(path: Path) -> tuple[Any, bytes]:
    """Return the header and the data of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _metadata(folder: Path) -> Any:
    """Return the metadata of the checkpoint, except the record of its training."""
    header, _ = _split(folder / "model.safetensors")
    return {**header["__metadata__"], "training": None}


def _teacher_tensors(path: Path) -> Mapping[str, np.ndarray]:
    """Return the floating-point tensors of the teacher by the names that a model has for them."""
    header, data = _split(path)
    dtypes = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    tensors = {}
    for name, entry in header.items():
        if name.startswith("teacher.") and entry["dtype"] in dtypes:
            values = np.frombuffer(data[slice(*entry["data_offsets"])], dtypes[entry["dtype"]])
            tensors[name.removeprefix("teacher.")] = values.reshape(entry["shape"])
    return tensors


def _prepare_results(tasks: tuple[str, ...], folder: Path) -> None:
    from support.models import store

    for number, task in enumerate(tasks):
        store(folder / "results", task, seed=number + 1)


def _prepare_baseline(folder: Path) -> None:
    _prepare_results(("cls", "retrieval"), folder)
    outcome = run_command([*_check(folder), "--update", "--reason", "fuzzing"], folder)
    if outcome.status:
        raise AssertionError(outcome)


def _check(folder: Path) -> list[str]:
    return ["check", str(folder / "results"), "--baseline", str(folder / "baseline.json")]


def _mutate_record(path_part: str, rng: Random, folder: Path) -> str:
    """Change one of the files whose paths contain `path_part`."""
    files = [path for path in folder.rglob("*") if path.is_file() and path_part in str(path)]
    path = rng.choice(sorted(files))
    chance = rng.random()
    if chance < 0.25 or (path.suffix != ".json" and chance < 0.9):
        return damage(rng, path)
    if chance < 0.3 or path.suffix != ".json":
        return misplace(rng, path)
    text = path.read_text()
    content = json.loads(text)
    if chance < 0.4:  # the same content, as another editor would write it
        layout = rng.choice(({"indent": 4}, {"separators": (",", ":")}, {"sort_keys": False}))
        path.write_text(json.dumps(content, **layout))
        return f"{path.name}: written again with {layout}"
    change = alter(rng, content)
    path.write_text(json.dumps(content))
    return f"{path.name}: {change}"


def _judge_records(
    copy: Path, pristine: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    """Another layout of the same JSON may pass, but no file with another content."""
    contents, pristine_contents = _contents(copy), _contents(pristine)
    changed = [name for name, text in pristine_contents.items() if contents.get(name) != text]
    added_or_removed = contents.keys() ^ pristine_contents.keys()
    if changed or added_or_removed:
        yield f"it passes, though {changed or added_or_removed} was changed"


def _judge_tables(
    copy: Path, pristine: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    """A changed result may be shown, but only with a note that it was edited."""
    output = outcome.out + outcome.err
    contents, pristine_contents = _contents(copy), _contents(pristine)
    for name in contents.keys() & pristine_contents.keys():
        is_changed = contents[name] != pristine_contents[name]
        if name.endswith(".json") and is_changed and "edited" not in output:
            yield f"nothing says that {name} was edited"


def _contents(folder: Path) -> dict[str, str]:
    """Return the content of every file, in one layout for JSON, by its path; output is left out."""
    contents = {}
    for path in folder.rglob("*"):
        if not path.is_file() or "out" in path.parts:
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            # Compared as text, since 1 == 1.0 == True in Python.
            text = json.dumps(json.loads(content), sort_keys=True)
        else:
            text = content.hex()
        contents[str(path.relative_to(folder))] = text
    return contents


def _tables(*command: str) -> Kind:
    """Return the kind of input of a command that shows tables of results."""

    def arguments(folder: Path) -> list[str]:
        return [word.format(folder) for word in command]

    prepare = partial(_prepare_results, ("cls", "retrieval"))
    return Kind(command[0], prepare, partial(_mutate_record, ".json"), arguments, _judge_tables)


def _verify(folder: Path) -> list[str]:
    return ["verify", str(folder / "results")]


def _results(task: str) -> Kind:
    """Return the kind of input of `verify` for a result of a task."""
    return Kind(
        f"result {task}",
        partial(_prepare_results, (task,)),
        partial(_mutate_record, "results"),
        _verify,
        _judge_records,
        reports=True,
        verdicts=(1,),
    )


_TASKS_OF_RESULTS = (
    *("retrieval", "cls", "multilabel", "faces", "seg", "select", "loc", "assoc"),
    *("probe", "ood", "ratings", "boxes", "ranking"),
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
        *(_results(task) for task in _TASKS_OF_RESULTS),
        *fuzzed_samples.KINDS,
        _tables("leaderboard", "{}/results", "--format", "md"),
        _tables("export", "{}/results", "--output", "{}/out/table.csv"),
        _tables("report", "{}/results", "--no-pictures", "--output", "{}/out/page.html"),
        Kind("baseline", _prepare_baseline, _mutate_baseline, _check, _judge_records, reports=True),
    )
}
"""By name."""
