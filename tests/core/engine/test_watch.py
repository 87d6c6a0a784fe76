"""What a run prints and logs, with real files, terminals and processes."""

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.processes import run_processes
from support.runs import log as read_log
from support.training import SINGLE_PROCESS
from support.watching import BATCH, TERMS, wait_by_rank, watch_config
from support.writing import file_size_limit

from cosmos_core.config import WatchConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.loggers import RunLog, TensorBoard, missing_packages
from cosmos_core.engine.loggers import read_log as read_records
from cosmos_core.engine.watch import Watch

SECOND = World(rank=1, world_size=2)
TESTS = Path(__file__).parents[2]


def config(log_every=1):
    return watch_config(steps=6, log_every=log_every)


def watch_steps(output, steps, *, log_every=1, first_step=0, world=SINGLE_PROCESS):
    """Show the first `steps` steps of a run of six, from `first_step` on."""
    with Watch(config(log_every=log_every), output, world, first_step=first_step) as watch:
        for step in range(first_step, steps):
            watch.show_step(step, {**TERMS, "clip": 2.5 - step / 8})


def read_scalars(output):
    """Return the tags of TensorBoard -> the steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def test_every_second_step_and_the_last_one_are_logged(tmp_path):
    watch_steps(tmp_path, 6, log_every=2)
    log = read_log(tmp_path)
    assert [record["step"] for record in log] == [0, 2, 4, 5]
    assert [record["clip"] for record in log] == [2.5, 2.25, 2.0, 1.875]
    timing = {"samples_per_second", "data_wait", "memory_bytes"}
    assert all(set(record) == {"step", *TERMS, "timing"} for record in log)
    assert all(set(record["timing"]) == timing for record in log)
    assert log[0]["timing"]["memory_bytes"] > 10_000_000


def test_pace_and_wait_are_those_since_the_last_line(tmp_path, monkeypatch):
    """By a clock of the test: a busy machine would change both."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Watch(config(log_every=2), tmp_path, SINGLE_PROCESS, first_step=0) as watch:
        now += 0.5
        watch.show_step(0, TERMS)
        for step in (1, 2):
            with watch.waiting():
                now += 0.15
            now += 0.05
            watch.show_step(step, TERMS)
    first, second = (record["timing"] for record in read_log(tmp_path))
    assert first["data_wait"] == 0
    assert first["samples_per_second"] == pytest.approx(BATCH / 0.5)
    assert second["samples_per_second"] == pytest.approx(2 * BATCH / 0.4)
    assert second["data_wait"] == pytest.approx(0.3 / 0.4, abs=0.001)


def log_timing_with_peak(output, peak_tflops):
    """Return the logged timing of a step in which an image takes 2 GFLOPs."""
    options = dataclasses.replace(config().watch, peak_tflops=peak_tflops)
    config_with_peak = dataclasses.replace(config(), watch=options)
    with Watch(config_with_peak, output, SINGLE_PROCESS, first_step=0) as watch:
        watch.set_flops(2e9)
        watch.show_step(0, TERMS)
    return read_log(output)[0]["timing"]


# With a peak of 0.5 TFLOPS, one image of 2 GFLOPs per second is a 250th of it.
@pytest.mark.parametrize(("peak", "mfu_of_one_image"), [(0.5, 1 / 250), (0, None)])
def test_the_mfu_is_the_flops_of_the_images_over_the_flops_of_the_peak(
    tmp_path, capsys, peak, mfu_of_one_image
):
    timing = log_timing_with_peak(tmp_path, peak)
    is_printed = "MFU" in capsys.readouterr().err
    if mfu_of_one_image is None:
        assert timing.get("mfu") is None
        assert not is_printed
    else:
        expected = mfu_of_one_image * timing["samples_per_second"]
        assert timing["mfu"] == pytest.approx(expected)
        assert is_printed


def test_the_pace_is_that_of_steps_with_as_many_flops(tmp_path, capsys):
    """After the first resolution, the pace of smaller images does not count any more."""
    with Watch(config(log_every=1), tmp_path, SINGLE_PROCESS, first_step=0) as watch:
        watch.set_flops(1e9)
        for step in range(5):
            watch.show_step(step, TERMS)
        watch.set_flops(2e9)
        time.sleep(0.5)
        watch.set_flops(2e9)
        watch._next_line_at = 0.0
        watch.show_step(5, TERMS)
    speed = int(re.findall(r"(\d+) images/s", capsys.readouterr().err)[-1])
    assert speed <= BATCH / 0.5


def test_the_time_of_an_evaluation_does_not_count_in_the_pace(tmp_path):
    with Watch(config(log_every=3), tmp_path, SINGLE_PROCESS, first_step=0) as watch:
        for step in (0, 1):
            watch.show_step(step, TERMS)
        time.sleep(0.5)
        watch.show_evaluation(1, {"cats/teacher/acc1": 0.5})
        watch.show_step(3, TERMS)
    assert read_log(tmp_path)[-1]["timing"]["samples_per_second"] > 4 * BATCH


def test_a_pause_does_not_count_in_the_pace(tmp_path):
    with Watch(config(), tmp_path, SINGLE_PROCESS, first_step=0) as watch:
        with watch.paused():
            time.sleep(0.5)
        watch.show_step(0, TERMS)
    assert read_log(tmp_path)[0]["timing"]["samples_per_second"] > 2 * BATCH


def test_lines_of_a_log_that_are_damaged_are_skipped(tmp_path):
    watch_steps(tmp_path, 3)
    path = tmp_path / "log.jsonl"
    records = read_log(tmp_path)
    with path.open("a") as file:
        # The last line has no end: it may have been cut.
        file.write('[1]\n{"step": "x"}\n{"clip": 1}\nnoise\n{"step": 3, "clip": 2.0}')
    assert read_records(path) == records
    assert read_records(tmp_path / "none.jsonl") == []


def test_evaluations_are_logged_beside_the_steps(tmp_path, capsys):
    metrics = {"cats/teacher/acc1": 0.5, "cats/teacher/acc5": 0.75, "cats/student/acc1": 0.25}
    with Watch(config(), tmp_path, SINGLE_PROCESS, first_step=0) as watch:
        watch.show_step(0, TERMS)
        watch.show_evaluation(0, metrics)
    assert read_log(tmp_path)[1] == {"step": 0, "evaluation": metrics}
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [
        "step 0: cats/teacher: acc1 0.5, acc5 0.75",
        "step 0: cats/student: acc1 0.25",
    ]
    assert read_scalars(tmp_path)["evaluation/cats/teacher/acc5"] == [(0, 0.75)]


def test_a_resumed_run_has_every_step_once(tmp_path):
    watch_steps(tmp_path, 5)
    path = tmp_path / "log.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, '{"step": 2, "cli']))  # as if the process was killed
    watch_steps(tmp_path, 6, first_step=3)
    assert [record["step"] for record in read_log(tmp_path)] == [0, 1, 2, 3, 4, 5]
    assert path.read_text().splitlines()[:3] == lines[:3]
    assert [step for step, _ in read_scalars(tmp_path)["train/clip"]] == [0, 1, 2, 3, 4, 5]


def test_a_run_from_the_start_has_a_log_of_its_own(tmp_path):
    watch_steps(tmp_path, 6)
    watch_steps(tmp_path, 2)
    assert [record["step"] for record in read_log(tmp_path)] == [0, 1]
    assert [step for step, _ in read_scalars(tmp_path)["train/clip"]] == [0, 1]


def test_tensorboard_has_the_scalars_of_the_log(tmp_path):
    watch_steps(tmp_path, 6, log_every=2)
    log, scalars = read_log(tmp_path), read_scalars(tmp_path)
    for name in TERMS:
        expected = [(record["step"], record[name]) for record in log]
        assert scalars[f"train/{name}"] == expected
    expected = [(record["step"], record["timing"]["data_wait"]) for record in log]
    assert scalars["timing/data_wait"] == expected


def test_without_tensorboard_a_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if not installed
    watch_steps(tmp_path, 6)
    assert not (tmp_path / "tensorboard").exists()
    assert len(read_log(tmp_path)) == 6
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("tensorboard is not installed")
    assert "pip install 'cosmos-eval[tensorboard]'" in first


def test_a_logger_that_is_requested_and_not_installed_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'cosmos-eval\[wandb\]'"):
        missing_packages(WatchConfig(loggers=("tensorboard", "wandb")))


def test_a_number_that_is_not_finite_is_null(tmp_path):
    with Watch(config(), tmp_path, SINGLE_PROCESS, first_step=0) as watch:
        watch.show_step(0, {**TERMS, "gradient_norm": float("inf")})
    text = (tmp_path / "log.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["gradient_norm"] is None


def test_outside_a_terminal_plain_lines_are_printed(tmp_path, capsys):
    watch_steps(tmp_path, 6)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, last = captured.err.splitlines()
    pace = r"\d+ images/s  data wait \d+%  0:00:00 left"
    assert re.fullmatch(rf"scenes_clip 1/6  clip 2\.500  {pace}", first)
    assert re.fullmatch(rf"scenes_clip 6/6  clip 1\.875  {pace}", last)


def test_other_processes_write_and_show_nothing(tmp_path, capsys):
    watch_steps(tmp_path, 6, world=SECOND)
    with Watch(config(), tmp_path, SECOND, first_step=0) as watch:
        watch.say("unheard")
        watch.show_evaluation(0, {"cats/teacher/acc1": 0.5})
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.watching import TERMS, Watch, World, watch_config
config = watch_config(steps=6, log_every=1)
with Watch(config, Path(sys.argv[1]), World(), first_step=0) as watch:
    for step in range(6):
        watch.show_step(step, TERMS)
    watch.say("a line [of] its own")
"""


@pytest.mark.slow
def test_in_a_terminal_a_progress_bar_is_shown(tmp_path):
    terminal, terminal_of_program = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(TESTS)]
    process = subprocess.Popen(command, stderr=terminal_of_program, env=environment)
    os.close(terminal_of_program)
    text = read_until_end(terminal)
    assert process.wait(timeout=60) == 0, text
    assert "━" in text
    assert "6/6" in text
    assert "images/s" in text
    assert "a line [of] its own\r\n" in text


def read_until_end(descriptor):
    """Return all that a program writes to its terminal until it ends."""
    content = b""
    while True:
        try:
            content += (piece := os.read(descriptor, 4096))
        except OSError:  # Linux, once the program has closed its side
            piece = b""
        if not piece:
            os.close(descriptor)
            return content.decode()


@pytest.mark.slow
def test_the_slowest_loader_and_the_bad_samples_of_all_processes_are_logged(tmp_path):
    run_processes(wait_by_rank, 2, tmp_path)
    (record,) = read_log(tmp_path)
    timing = record["timing"]
    assert timing["data_wait"] > 0.8
    assert timing["slowest_rank"] == 1
    assert timing["data_wait_of_rank"] == {"0": pytest.approx(0, abs=0.1), "1": timing["data_wait"]}
    assert record["bad_samples"] == 3
    printed_text = (tmp_path / "printed-0.txt").read_text(encoding="utf-8")
    assert re.search(r"data wait \d+% \(slowest: rank 1, \d\d+%\)  ", printed_text)
    assert (tmp_path / "printed-1.txt").read_bytes() == b""


def test_a_full_disk_is_one_error_with_the_name_of_the_file(tmp_path, capfd):
    # TensorBoard writes in a thread, whose traceback must not be printed in addition.
    former_hook = threading.excepthook
    board = TensorBoard(config(), tmp_path, 0)
    log = RunLog(tmp_path, 0, [board])
    log.write(0, {"lr": 1.0})

    def log_until_the_disk_is_full():
        for step in range(1, 400):
            log.write(step, {"lr": 1.0})
            if step % 50 == 0:
                board.events.flush()

    with file_size_limit(4000):
        with pytest.raises(OSError, match="File too large") as caught:
            log_until_the_disk_is_full()
        assert str(caught.value.filename).startswith(str(tmp_path))
        with pytest.raises(OSError, match="File too large") as caught:
            log.close()
        assert str(caught.value.filename).startswith(str(tmp_path))
    assert capfd.readouterr().err == ""
    assert threading.excepthook is former_hook
