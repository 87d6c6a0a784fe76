"""`python -m support.killing DATA.yaml FOLDER TRIALS SEED`: a measurement killed again and again.

Every trial measures with an empty cache in a forked process, kills it with SIGKILL at a random
moment, measures again and prints a JSON line with the values that a test compares. This process has
loaded the libraries and the model, so a trial takes little more time than its measurement.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from cosmos_eval import models as encoders
from cosmos_eval.embedding import embed
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.runner.plan import Plan, make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.types import Progress, RunOptions

PARITY = Path(__file__).parents[1] / "parity"
SHARD = {"image": 4, "text": 6}


def main() -> None:
    data, folder, trials, seed = sys.argv[1:]
    embed.IMAGES_PER_SHARD, embed.TEXTS_PER_SHARD = SHARD["image"], SHARD["text"]
    encoders.load_encoder = cache(encoders.load_encoder)
    list(run_all(_plan(data, None)))  # imports the modules that a run imports late
    root = Path(folder)
    uninterrupted = root / "whole"
    process = _forked(partial(_measure, data, uninterrupted))
    seconds = _wait(process, uninterrupted)
    rng = random.Random(int(seed))
    for number in range(int(trials)):
        trial = root / str(number)
        process = _forked(partial(_measure, data, trial))
        while not (trial / "started").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        line: dict[str, object] = {"killed_after": _encoded(trial)}
        line["finished"] = [path.name for path in (trial / "results").glob("*.json")]
        _wait(_forked(partial(_measure, data, trial)), trial)
        line["in_all"], line["files"] = _encoded(trial), _files(trial)
        print(json.dumps(line), flush=True)
        shutil.rmtree(trial)
    print(json.dumps({"in_all": _encoded(uninterrupted), "files": _files(uninterrupted)}))


def _files(place: Path) -> list[str]:
    """The names, but for what a process that was killed while it wrote leaves hidden."""
    return sorted(path.name for path in (place / "results").glob("[!.]*"))


def _forked(act: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        act()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def _wait(child: int, place: Path) -> float:
    """Seconds from the end of loading to the end."""
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a measurement ended with status {status}")
    return time.time() - (place / "started").stat().st_mtime


def _measure(data: str, folder: Path) -> None:
    """Measure as `cosmos-eval run` does, and note every input that a model encodes."""
    folder.mkdir(parents=True, exist_ok=True)
    _note_encoded(folder)

    def note_start(measurement: str, step: Progress) -> None:
        if step.phase == "load" and step.done:
            (folder / "started").touch()

    list(run_all(_plan(data, folder / "cache"), note_start, folder / "results"))


def _plan(data: str, cache: Path | None) -> Plan:
    return make_plan(
        datasets=[data],
        models=[f"cosmos:{PARITY / 'checkpoint.pt'}"],
        arch=str(PARITY / "model_config.json"),
        options=RunOptions(device="cpu", cache=cache and str(cache), batch_size=2, workers=1),
    )


def _note_encoded(place: Path) -> None:
    for name, role in (("encode_image", "image"), ("encode_text", "text")):
        encode = getattr(ClipEncoder, name)

        def noting(encoder, inputs, encode=encode, role=role):  # type: ignore[no-untyped-def]
            features = encode(encoder, inputs)
            with (place / role).open("ab") as file:
                file.write(b"." * len(inputs))
            return features

        setattr(ClipEncoder, name, noting)


def _encoded(place: Path) -> dict[str, int]:
    return {role: (place / role).stat().st_size if (place / role).exists() else 0 for role in SHARD}


if __name__ == "__main__":
    main()
