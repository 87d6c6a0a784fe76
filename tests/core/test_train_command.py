"""`cosmos-train` as it is run: a tiny training from nothing to a checkpoint that loads."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support import forked
from support.training import SMALL_MODEL

import cosmos_core
from cosmos_core.cli import COMMANDS
from cosmos_core.data.samples import DREAMLIP_KEYS
from cosmos_core.model.checkpoint import read_checkpoint
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_core.utils.text import nearest_names

GROUPS = ("method", "data", "optim", "image", "text", "compute", "save", "watch")

TINY = [
    *("--set", "data.shards=scenes:24"),
    *("--set", "data.workers=0"),
    *("--set", "optim.batch_size=8"),
    *("--set", "watch.log_every=1"),
]


def command(*arguments):
    return [sys.executable, "-m", "cosmos_core.train", *arguments]


def train(*arguments):
    return forked.run(arguments, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["scenes_cosmos", "scenes_clip"])
def test_trains_logs_and_saves(tmp_path, recipe):
    done = train(recipe, *TINY, "--set", "optim.steps=3", "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "run" / "checkpoint.safetensors")
    assert "3/3" in done.stderr
    assert "images/s" in done.stderr
    assert f"pictures: {tmp_path}/run/views.png shows the first batch" in done.stderr
    assert (tmp_path / "run" / "losses.png").exists()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [0, 1, 2]
    assert (log[0].get("distill", 0) > 0) == (recipe == "scenes_cosmos")
    for weights in ("teacher", "student"):
        model = cosmos_core.load_model(done.stdout.strip(), weights=weights)
        assert isinstance(model, cosmos_core.Cosmos) == (recipe == "scenes_cosmos")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses(tmp_path):
    logs, words = [], [*TINY, "--set", "optim.steps=2", "--set", "watch.pictures=false"]
    for name in ("first", "second"):
        done = train("scenes_cosmos", *words, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([{**json.loads(line), "timing": None} for line in lines])
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_run_starts_from_a_snapshot_of_another(tmp_path):
    settings = ["optim.warmup_steps=1", "save.every=1", "watch.pictures=false", SMALL_MODEL]
    settings.append("watch.loggers=[]")
    words = [*TINY, *(word for setting in settings for word in ("--set", setting))]
    constant = ["--set", "optim.schedule=constant", "--set", "optim.steps=3"]
    done = train("scenes_clip", *words, *constant, "--output", tmp_path / "long")
    assert done.returncode == 0, done.stderr
    start = tmp_path / "long" / "snapshots" / "step-00000002.pt"
    cooldown = ["--set", "optim.schedule=wsd", "--set", "optim.cooldown_steps=2"]
    words += [*cooldown, "--from", start, "--output", tmp_path / "branch"]
    done = train("scenes_clip", *words, "--set", "optim.steps=4")
    assert done.returncode == 0, done.stderr
    assert f"cosmos-train: goes on from {start}, after 2 of 4 steps\n" in done.stderr
    log = (tmp_path / "branch" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [2, 3]
    training = read_checkpoint(tmp_path / "branch" / "checkpoint.safetensors").training
    assert training["command"].endswith(f" --from {start}")
    start = start.with_name("step-00000003.pt")  # after the first step of the cooldown
    words += ["--from", start, "--output", tmp_path / "short", "--set", "optim.steps=3"]
    done = train("scenes_clip", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"cosmos-train: {start} cannot be branched: the learning rate of")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes_cosmo"], "unknown recipe 'scenes_cosmo'; nearest: scenes_cosmos, "),
        (["scenes_clip", "--nonsense"], "No such option: --nonsense (see --help)"),
        (["exprot", "a"], "No such command 'exprot'. Did you mean 'export'? (see --help)"),
        (["shwo", "cc3m"], "No such command 'shwo'. Did you mean 'show'? (see --help)"),
        (["--set", "optim.step=3", "scenes_clip"], "--set optim.step: no 'step'; nearest: optim."),
        (["--debug=", "scenes_clip"], "the value of --debug is empty (a variable that is not set?"),
        (["scenes_clip", "--set", ""], "the value of --set is empty (a variable that is not set?"),
        (["scenes_clip", "--resume"], "no whole snapshot to resume from; --resume auto starts"),
    ],
)
def test_usage_errors_are_one_line(tmp_path, arguments, message):
    done = train(*arguments, "--output", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_an_empty_output_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = train("debug", "--output", "")
    assert done.returncode == 2
    assert done.stderr.startswith("cosmos-train: the value of --output is empty")
    assert list(tmp_path.iterdir()) == []


def test_options_before_the_recipe_are_those_of_a_training():
    arguments = ("--output", "run", "scenes_clipp")
    done = train("--debug", *arguments)
    assert done.stderr.endswith(train(*arguments).stderr)
    assert "unknown recipe 'scenes_clipp'; nearest: scenes_clip" in done.stderr
    assert "Traceback" in done.stderr
    for option in ("-h", "--help"):
        assert "Usage: " in train("--debug", option).stdout


def test_no_recipe_resembles_a_command():
    assert all(nearest_names(recipe, COMMANDS) == [*COMMANDS] for recipe in RECIPES)


def test_show_prints_every_value_and_where_it_comes_from():
    done = train("show", "cc12m", "--set", "method=silc", "--set", "optim.lr=0.25")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert re.split(" {2,}", rows["optim.lr"]) == ["--set", "0.25"]
    assert re.split(" {2,}", rows["method"]) == ["--set", "silc"]
    assert re.split(" {2,}", rows["optim.momentum"]) == ["method silc", "0.966"]
    assert re.split(" {2,}", rows["image.locals"]) == ["method silc", "8"]
    assert re.split(" {2,}", rows["optim.batch_size"]) == ["recipe", "4096"]
    assert re.split(" {2,}", rows["optim.eps"]) == ["default", "1e-08"]
    assert re.split(" {2,}", rows["data.shards"]) == ["recipe", '""']
    config = override(RECIPES["cc12m"](), ["method=silc"])
    fields = {f"{group}.{name}" for group in GROUPS for name in vars(getattr(config, group))}
    assert fields - {"method.name"} <= set(rows)


def prepared(tmp_path):
    """Arguments of a `prepare` that prints a short report."""
    images = tmp_path / "images" / "00000"
    images.mkdir(parents=True)
    (images / "0.json").write_text('{"url": "https://host/0.jpg"}')
    (images / "0.jpg").write_bytes(b"an image")
    captions = tmp_path / "captions.csv"
    header = ["Image Path", *DREAMLIP_KEYS]
    captions.write_text(",".join(header) + "\nhttps://host/0.jpg" + ",a caption" * 7 + "\n")
    return ["prepare", tmp_path / "images", captions, "--output", tmp_path / "out"]


def test_output_that_cannot_be_printed_is_status_2_in_a_line(tmp_path):
    process = forked.Forked(prepared(tmp_path), out="/dev/full")
    _, err = process.communicate(timeout=120)
    last = "cosmos-train: cannot write the output: No space left on device"
    assert err.splitlines()[-1:] == [last]
    assert "Traceback" not in err
    assert process.returncode == 2
    assert (tmp_path / "out" / "00000.tar").exists()


def test_a_reader_that_is_gone_is_status_141_without_a_word(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    process = forked.Forked(prepared(tmp_path), out=tmp_path / "pipe")
    (tmp_path / "pipe").open().close()  # opens once the command does
    _, err = process.communicate(timeout=120)
    assert process.returncode == 141
    assert [line for line in err.splitlines() if "wrote" not in line] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["debug", "--output", "{file}/run"],
        ["prepare", "{images}", "{captions}", "--output", "{file}/run"],
        ["export", "none.safetensors", "--output", "{file}/run"],
    ],
)
def test_an_output_that_cannot_be_written_is_named_before_any_work(tmp_path, arguments):
    (tmp_path / "file").touch()
    _, images, captions, *_ = prepared(tmp_path)
    places = {"file": tmp_path / "file", "images": images, "captions": captions}
    done = train(*(word.format(**places) for word in arguments))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"cannot write to {tmp_path}/file" in done.stderr
    assert "Not a directory" in done.stderr


@pytest.mark.parametrize("program", ["cosmos_core.train", "cosmos_eval.__main__"])
def test_an_interrupt_during_imports_ends_in_a_line(tmp_path, program):
    """Some libraries catch whatever interrupts the import of another and then fail."""
    done = forked.Forked([program], target=forked.interrupted_import)
    _, err = done.communicate(timeout=60)
    name = program.partition(".")[0].replace("cosmos_core", "cosmos_train").replace("_", "-")
    assert err == f"{name}: interrupted\n"
    assert done.returncode == 130


@pytest.mark.slow
def test_matplotlib_waits_for_the_first_picture():
    """It takes half a second, which `--help` can do without."""
    program = "import sys, cosmos_core.cli; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.slow
def test_a_killed_run_leaves_a_whole_checkpoint_or_none(tmp_path):
    arguments = ["scenes_clip", *TINY, "--set", "optim.steps=100000", "--set", "save.every=1"]
    words = command(*arguments, "--output", str(tmp_path))
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "checkpoint.safetensors"
    deadline = time.monotonic() + 90
    while not checkpoint.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cosmos_core.load_model(checkpoint)
