"""The kinds of input that are fuzzed: what each is, and by what means its numbers are right.

The model of the data sets sees the mean colour of an image and the colour words of a text, so that
an oracle needs Pillow and a maximum alone.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError
from support.fuzzing import Kind, Outcome, alter, damage, misplace, run_command

COLOURS = {"red": (200, 30, 40), "green": (30, 180, 60), "blue": (20, 60, 220)}
MODEL = """
import numpy as np
import torch
from cosmos_eval.types import EncoderInfo

COLOURS = ("red", "green", "blue")

class Colours:
    preprocessing = {}
    tokenizer = {}
    trims_text = False

    def __init__(self, device, precision):
        self.info = EncoderInfo("colours", "colours", None, "0" * 64, False, precision, device)

    def transform(self, image):
        mean = np.asarray(image, np.float64).reshape(-1, 3).mean(axis=0)
        return torch.tensor(mean + 1e-3).float()[:, None, None]

    def tokenize(self, texts):
        named = torch.tensor([[int(colour in text) for colour in COLOURS] for text in texts])
        return torch.where(named.any(dim=1, keepdim=True), named, 1)

    def overlong(self, texts):
        return torch.zeros(len(texts), dtype=torch.bool)

    def encode_image(self, images):
        return torch.nn.functional.normalize(images[:, :, 0, 0], dim=1)

    def encode_text(self, tokens):
        return torch.nn.functional.normalize(tokens.float(), dim=1)

def load(device, precision):
    return Colours(device, precision)
"""
SAMPLES = [(n, colour) for n, colour in enumerate(("red", "green", "blue", "blue", "green", "red"))]
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")


def picture(number: int, colour: str, form: str = "PNG") -> bytes:
    """A small image of about one colour; every sixth number has another one than it says."""
    colour = "red" if number == 4 else colour
    rng = np.random.default_rng(number)
    pixels = np.clip(rng.normal(COLOURS[colour], 8, (6, 8, 3)), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def seen(content: bytes) -> str | None:
    """The colour that the model must see, by Pillow alone; None where Pillow cannot decode."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            mean = np.asarray(image.convert("RGB"), np.float64).reshape(-1, 3).mean(axis=0)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    return list(COLOURS)[int(mean.argmax())]


def measure(dataset: str, folder: Path, model: str = "python:{}/model.py") -> list[str]:
    """The command that measures the data set of a YAML file."""
    return [
        *("run", "--dataset", str(folder / dataset), "--model", model.format(folder)),
        *("--output", str(folder / "out"), "--device", "cpu", "--no-cache", "--workers", "0"),
    ]


def _same_numbers(_: Path, __: Path, outcome: Outcome, reference: Outcome) -> Iterator[str]:
    for ours, theirs in zip(outcome.results, reference.results, strict=True):
        for part in ("metrics", "n_samples", "per_class", "intervals"):
            if ours[part] != theirs[part]:
                yield f"another number: {part} {ours[part]}, not {theirs[part]}"


def _plausible(outcome: Outcome, samples: int) -> Iterator[str]:
    """Of an input that means something else, but may be read: one whole result in its bounds."""
    if len(outcome.results) != 1:
        yield f"{len(outcome.results)} results"
        return
    (result,) = outcome.results
    if not 0 < result["n_samples"] <= samples:
        yield f"n_samples {result['n_samples']} of {samples}"


# --- Images ------------------------------------------------------------------------------------


def _prepare_images(folder: Path) -> None:
    (folder / "model.py").write_text(MODEL)
    (folder / "set.yaml").write_text("kind: cls\nfolder: photos\n")
    for (number, colour), form in zip(SAMPLES, FORMATS, strict=True):
        path = folder / "photos" / colour / f"{number}.{form.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, colour, form))


def _mutate_image(rng: Random, folder: Path) -> str:
    path = rng.choice(sorted((folder / "photos").glob("*/*")))
    return misplace(rng, path) if rng.random() < 0.1 else damage(rng, path)


def _judge_images(copy: Path, _: Path, outcome: Outcome, __: Outcome) -> Iterator[str]:
    paths = [path for path in (copy / "photos").glob("*/*.*") if path.is_file()]
    labels = [(path.parent.name, path.read_bytes()) for path in paths]
    yield from _judge_colours(labels, outcome)


def _judge_colours(labels: list[tuple[str, bytes]], outcome: Outcome) -> Iterator[str]:
    """Compare an accuracy with that of the oracle on labels and images."""
    (result,) = outcome.results
    colours = [(label, seen(content)) for label, content in labels]
    if unread := sum(colour is None for _, colour in colours):
        yield f"Pillow cannot decode {unread} of the images"
        return
    right = sum(label == colour for label, colour in colours)
    expected = right / max(1, len(colours))
    if result["n_samples"] != len(colours) or abs(result["metrics"]["acc1"] - expected) > 1e-9:
        acc1 = result["metrics"]["acc1"]
        yield f"acc1 {acc1} of {result['n_samples']}, the oracle: {expected} of {len(colours)}"


# --- Tar archives ------------------------------------------------------------------------------


def _prepare_tars(folder: Path) -> None:
    (folder / "model.py").write_text(MODEL)
    (folder / "set.yaml").write_text("kind: cls\nlayout: webdataset\nfolder: wds\n")
    (folder / "wds/test").mkdir(parents=True)
    (folder / "wds/classnames.txt").write_text("\n".join(COLOURS))
    (folder / "wds/test/nshards.txt").write_text("1")
    with tarfile.open(folder / "wds/test/0.tar", "w") as tar:
        for number, colour in SAMPLES:
            label = str(list(COLOURS).index(colour)).encode()
            for suffix, content in (("cls", label), ("png", picture(number, colour))):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _mutate_tar(rng: Random, folder: Path) -> str:
    path = folder / "wds/test/0.tar"
    if rng.random() < 0.05:
        return misplace(rng, path)
    if rng.random() < 0.5:
        return damage(rng, path)
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        starts = [info.offset for info in tar]
    start = rng.choice(starts)
    where, size = rng.choice(((0, 100), (100, 8), (124, 12), (148, 8), (156, 1), (157, 100)))
    field = rng.choice((b"", b"7" * size, b"\xff" * size, rng.randbytes(size), b"00000000144"))
    content[start + where : start + where + size] = field[:size].ljust(size, b"\0")
    header = content[start : start + 512]
    if rng.random() < 0.7:  # an adversary mends the checksum
        header[148:156] = b" " * 8
        content[start + 148 : start + 156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(content)
    return f"0.tar: field {where} of the header at {start} is {bytes(field)[:12]!r}"


def _judge_tar(copy: Path, _: Path, outcome: Outcome, __: Outcome) -> Iterator[str]:
    """Compare with what GNU tar finds in the archive, which must be whole."""
    content = (copy / "wds/test/0.tar").read_bytes()
    if len(content) % 512 or any(content[-1024:]):
        yield "it does not end as archives do, with two blocks of zeros"
        return
    with tempfile.TemporaryDirectory() as folder:
        command = ["tar", "--ignore-zeros", "-xf", str(copy / "wds/test/0.tar"), "-C", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or done.stderr:
            yield f"GNU tar refuses it: {done.stderr.strip()[:100]!r}"
            return
        labels = []
        for path in Path(folder).rglob("*.cls"):
            label = list(COLOURS)[int(path.read_text())]
            labels.append((label, path.with_suffix(".png").read_bytes()))
    yield from _judge_colours(labels, outcome)


# --- Users' YAML and lists ---------------------------------------------------------------------

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
        **{"kind": "retrieval", "images": ["photos"], "annotations": ["captions.csv"]},
        **{"image_key": "image", "caption_key": "caption", "captions_per_image": 1},
    },
    "lines": {"kind": "retrieval", "images": "photos", "annotations": "captions.jsonl"},
    "karpathy": {"kind": "retrieval", "images": "photos", "annotations": "karpathy.json"},
    "coco": {"kind": "retrieval", "images": "photos", "annotations": "coco.json"},
    "items": {
        **{"kind": "select", "images": "photos", "annotations": "items.json", "layout": "items"},
        **{"subset_key": "kind", "template": "a photo of {}"},
    },
    "aro": {"kind": "select", "images": "photos", "annotations": "aro.json", "layout": "aro"},
}
LISTS = ("captions.json", "captions.csv", "captions.jsonl", "karpathy.json", "coco.json")
LIST_OF = {"items": "items.json", "aro": "aro.json"} | dict(
    zip(("list", "rows", "lines", "karpathy", "coco"), LISTS, strict=True)
)


def _prepare_sets(folder: Path) -> None:
    _prepare_images(folder)
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
    box = {f"bbox_{side}": size for side, size in zip("xywh", (1, 1, 5, 4), strict=True)}
    return {
        "captions.json": rows,
        "coco.json": {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
            "annotations": [
                {"id": n, "image_id": n, "caption": row["caption"]} for n, row in enumerate(rows)
            ],
        },
        "karpathy.json": {
            "images": [
                {
                    **{"filepath": name.split("/")[0], "filename": name.split("/")[1]},
                    **{"split": "test", "sentences": [{"raw": row["caption"]}]},
                }
                for name, row in zip(names, rows, strict=True)
            ]
        },
        "items.json": [{**row, "negative": "grey", "kind": row["image"][:1]} for row in rows],
        "aro.json": [
            {
                **{"image_path": row["image"], "true_caption": row["caption"]},
                **{"false_caption": "grey", "relation_name": "on", **box},
            }
            for row in rows
        ],
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
    done = alter(rng, content)
    path.write_text(_written(content))
    return f"{name}.yaml: {done}"


def _written(content: Any) -> str:
    """JSON is YAML; what safe_dump would refuse or mend is written as it is."""
    return json.dumps(content)


def _judge_yaml(
    name: str, copy: Path, _: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    try:
        content = yaml.safe_load((copy / f"{name}.yaml").read_text("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        yield f"PyYAML refuses it: {error!r:.80}"
        return
    if content == SETS[name] and content.get("name", name) == name:
        yield from _same_numbers(copy, copy, outcome, reference)
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
        done = alter(rng, rows)
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        content = json.loads(path.read_text())
        done = alter(rng, content)
        path.write_text(json.dumps(content))
    return f"{path.name}: {done}"


def _judge_list(
    name: str, copy: Path, pristine: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    path = copy / LIST_OF[name]
    if _parsed(path) == _parsed(pristine / path.name):
        yield from _same_numbers(copy, pristine, outcome, reference)
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
    for name in names:
        yield Kind(
            f"{prefix} {name}",
            _prepare_sets,
            partial(mutate, name),
            partial(measure, f"{name}.yaml"),
            partial(judge, name),
        )


# --- Checkpoints -------------------------------------------------------------------------------


def _prepare_checkpoint(folder: Path) -> None:
    import torch

    from cosmos_core.data.scenes import scenes_tokenizer
    from cosmos_core.model.build import create_model
    from cosmos_core.model.checkpoint import save_checkpoint

    _prepare_images(folder)
    size = {"layers": 1, "width": 16}
    architecture = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "head_width": 8, **size},
        "text_cfg": {
            **{"context_length": 16, "vocab_size": scenes_tokenizer().vocab_size, "heads": 2},
            **size,
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
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
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
    if any(not np.isfinite(values).all() for values in ours.values()):
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
        yield from _same_numbers(copy, pristine, outcome, reference)


def _stated(folder: Path) -> Any:
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {**header["__metadata__"], "training": None}


def _tensors(path: Path) -> Mapping[str, np.ndarray]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in kinds:
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            values = np.frombuffer(content[start:stop], kinds[entry["dtype"]])
            found[name] = values.reshape(entry["shape"])
    return found


# --- Results and baselines ---------------------------------------------------------------------


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


def _contents(folder: Path) -> dict[str, str]:
    found = {}
    for path in (p for p in folder.rglob("*") if p.is_file() and "out" not in p.parts):
        if path.suffix == ".json":
            # Spelled out, since 1 == 1.0 == True.
            content = json.dumps(json.loads(path.read_bytes()), sort_keys=True)
        else:
            content = path.read_bytes().hex()
        found[str(path.relative_to(folder))] = content
    return found


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


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("images", _prepare_images, _mutate_image, partial(measure, "set.yaml"), _judge_images),
        Kind("tars", _prepare_tars, _mutate_tar, partial(measure, "set.yaml"), _judge_tar),
        *_sets("yaml", tuple(SETS), _mutate_yaml, _judge_yaml),
        *_sets("list", tuple(LIST_OF), _mutate_list, _judge_list),
        Kind(
            "checkpoint",
            _prepare_checkpoint,
            _mutate_checkpoint,
            partial(measure, "set.yaml", model="cosmos:{}/model.safetensors"),
            _judge_checkpoint,
        ),
        *map(_results, ("retrieval", "cls", "seg", "select", "loc")),
        Kind(
            "baseline",
            _prepare_baseline,
            partial(_mutate_record, "baseline"),
            _check,
            _judge_records,
            reports=True,
        ),
    )
}
"""By name."""
