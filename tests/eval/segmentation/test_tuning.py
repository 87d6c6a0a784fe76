"""Settings chosen on training images, and measured on the test set."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.segmenting import measure, write_halves

from cosmos_eval import models as encoders
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.reporting.gallery import collect
from cosmos_eval.results.store import result_paths
from cosmos_eval.runner import trials
from cosmos_eval.runner.tune import make_search, tune
from cosmos_eval.tasks import label_maps
from cosmos_eval.tasks.segmentation import TASK, tuning
from cosmos_eval.types import RunOptions, UsageError, no_progress

EXAMPLES = Path(__file__).parents[3] / "examples"
SETTINGS = {
    "prompts": [{}, {"animals": ["a {}"], "templates": ["{}", "the {}"]}],
    "attention": ["csa", "naclip"],
    "window": [32, None],
    "prob_thd": [0.0, 0.3],
    "scale": [40.0, 65.0],
    "refinement": [None, "pamr"],
}
# Left half red, right half blue: the first prompts are right everywhere, the second call everything
# the first class, the third are wrong everywhere.
COLOURS = """
- {left: [red], right: [blue]}
- {left: [red], right: [red]}
- {left: [blue], right: [red]}
"""


@pytest.fixture
def halves(tmp_path) -> dict[str, Path]:
    """A test set, a training set, the model of the examples and a space, by name."""
    write_halves(tmp_path / "test", 210)
    write_halves(tmp_path / "training", 200)
    (tmp_path / "space.yaml").write_text(f"prompts: {COLOURS}\nattention: [csa]")
    model = shutil.copy(EXAMPLES / "own_model.py", tmp_path / "colours.py")
    return {
        "--dataset": tmp_path / "test/halves.yaml",
        "--split": tmp_path / "training/halves.yaml",
        "--space": tmp_path / "space.yaml",
        "--model": f"python:{Path(model).name}",
        "--output": "tuned",
        "--budget": 3,
    }


def words(options, **changed):
    named = {**options, **{f"--{name}": value for name, value in changed.items()}}
    return [word for pair in named.items() for word in pair]


@pytest.fixture
def tuned(halves, command) -> Path:
    ended = command("tune", *words(halves))
    assert ended.status == 0, ended.err
    assert "note: all 3 settings of the space are tried" in ended.err
    (path,) = Path("tuned").glob("*.yaml")
    return path


def test_the_best_setting_is_chosen_and_every_score_is_written(tuned, halves, command):
    (path,) = tuned.parent.glob("*.trials.json")
    scores = {
        trial["prompts"]["left"][0] + trial["prompts"]["right"][0]: trial["mIoU"]
        for trial in json.loads(path.read_text())["trials"]
    }
    assert scores == {"redblue": 1.0, "redred": 0.25, "bluered": 0.0}
    chosen = yaml.safe_load(tuned.read_text())
    assert chosen["settings"]["prompts"] == {"left": ["red"], "right": ["blue"]}
    (printed,) = json.loads(command("tune", *words(halves), "--json").out)
    assert sorted(printed["scores"]) == [0, 0.25, 1]
    assert (printed["scores"][printed["best"]], printed["path"]) == (1, str(tuned))
    assert command("tune", *words(halves, name="ours", output="named")).status == 0
    assert sorted(path.name for path in Path("named").iterdir()) == [
        *("ours.trials.json", "ours.yaml", "trials.png"),
    ]


HUGE = 123456789  # stands for a number that no float can hold


def swap_the_scores(trials: dict) -> None:
    """Let the worst setting look best."""
    best, *_, worst = trials["trials"]
    best["mIoU"], worst["mIoU"] = worst["mIoU"], best["mIoU"]


EDITS = (
    swap_the_scores,
    lambda trials: trials["trials"][1].update(mIoU=float("nan")),
    lambda trials: trials["trials"][2].update(mIoU=HUGE),
    lambda trials: trials["trials"].reverse(),
    lambda trials: trials.pop("trials"),
    lambda trials: trials.pop("sha256"),  # as earlier versions wrote it
    lambda trials: trials.update(sha256=1),
)


def test_edited_trials_decide_nothing(tuned, halves, command):
    (path,) = tuned.parent.glob("*.trials.json")
    written, before = path.read_text(), tuned.read_bytes()
    for edit in EDITS:
        trials = json.loads(written)
        edit(trials)
        path.write_text(json.dumps(trials).replace(str(HUGE), "1e999"))
        ended = command("tune", *words(halves))
        assert ended.status == 2
        (line,) = ended.err.splitlines()
        assert f"{path} was edited after it was written" in line or "not JSON" in line
        assert tuned.read_bytes() == before
    path.unlink()
    assert command("tune", *words(halves)).status == 0
    assert tuned.read_bytes() == before
    # The same content in another layout was not edited.
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert command("tune", *words(halves)).status == 0


def test_a_tuned_result_is_of_a_family_of_its_own(tuned, halves, command):
    given = ["--dataset", halves["--dataset"]]
    chosen = yaml.safe_load(tuned.read_text())
    ended = command("run", *given, "--tuned", tuned, "--json")
    (result,) = json.loads(ended.out)
    assert result["metrics"]["mIoU"] == 1
    assert result["provenance"]["tuned"] == chosen
    assert (chosen["search"]["budget"], chosen["search"]["images"], chosen["score"]) == (3, 2, 1)
    assert result["protocol"].startswith("tuned-")
    assert command("verify").status == 0
    planned = command("run", *given, "--tuned", tuned, "--dry-run", "--json")
    assert json.loads(planned.out)[0]["protocol"] == result["protocol"]
    # A report predicts by the chosen settings: others would not give the measured label maps.
    gallery = collect(
        result_paths(Path("runs/eval")), RunOptions(), datasets=[str(halves["--dataset"])]
    )
    assert {one.protocol for one in gallery.segmentation} == {result["protocol"]}
    assert [list(one.predictions) for one in gallery.segmentation] == [["shares of 11 colours"]] * 2
    assert not [note for note in gallery.notes if "label maps" in note]
    command("run", *given, "--model", halves["--model"])
    board = command("leaderboard", "--format", "json")
    protocols = {row["protocol"] for row in json.loads(board.out)}
    assert protocols == {"user", result["protocol"]}


def test_only_equal_searches_are_compared(tuned, halves, command):
    def run(settings, output):
        ended = command("run", *given, "--tuned", settings, "--output", output, "--json")
        return json.loads(ended.out)[0]["protocol"]

    given = ["--dataset", halves["--dataset"]]
    other_model = Path("colours.py").read_text() + "# Another model\n"
    Path("others.py").write_text(other_model)
    other = words(halves, model="python:others.py", output="others")
    Path("space.yaml").write_text(f"prompts: {COLOURS}\nattention: [csa]")
    assert command("tune", *other).status == 0
    (path,) = Path("others").glob("*.yaml")
    record = yaml.safe_load(path.read_text())
    assert run(tuned, "a") == run(path, "b")
    assert command("compare", "a", "b").status == 0
    # The same search with other values for another model is comparable, too.
    del record["sha256"]
    record["settings"]["prompts"] = {"left": ["red"], "right": ["red"]}
    path.write_bytes(tuning.settings_file(record))
    run(path, "b")
    ended = command("compare", "a", "b")
    assert ended.status == 0
    assert ended.err == "note: other metrics not shown: 2 (--all-metrics shows them)\n"
    assert command("tune", *words(halves, budget=2, output="less")).status == 0
    (less,) = Path("less").glob("*.yaml")
    assert run(less, "c") != run(path, "b")
    ended = command("compare", "a", "c")
    assert ended.status == 2
    assert "protocol is tuned-" in ended.err


def test_settings_of_another_model_are_refused_unless_stated(tuned, halves, command):
    shutil.copy("colours.py", "others.py")
    given = ["run", "--dataset", halves["--dataset"], "--tuned", tuned, "--json"]
    given += ["--model", "python:others.py"]
    ended = command(*given)
    assert ended.status == 2
    assert "chosen for python:colours.py, not python:others.py: add --transfer" in ended.err
    foreign = json.loads(command(*given, "--transfer").out)[0]["protocol"]
    own = json.loads(command(*given[:-2]).out)[0]["protocol"]
    assert foreign != own
    Path("colours.py").write_text(Path("colours.py").read_text() + "# changed\n")
    ended = command(*given[:-2])
    assert ended.status == 2
    assert "chosen for another state of python:colours.py" in ended.err


def test_models_of_one_name_are_refused_before_any_is_scored(halves, command):
    """Files of models can state a name. Here, both state the name that the example has."""
    Path("others.py").write_text(Path("colours.py").read_text() + "# Another model\n")
    both = [*words(halves), "--model", "python:others.py"]
    ended = command("tune", *both)
    assert ended.status == 2
    assert ended.err == (
        "cosmos-eval: python:colours.py and python:others.py are both called shares of 11 "
        "colours: give each model a name with --name, or tune each into another --output\n"
    )
    assert not Path("tuned").exists()
    assert command("tune", *both, "--name", "a", "--name", "b").status == 0
    files = ["a.trials.json", "a.yaml", "b.trials.json", "b.yaml", "trials.png"]
    assert sorted(path.name for path in Path("tuned").iterdir()) == files


def test_files_of_another_model_are_not_replaced(tuned, halves, command):
    """The first model of the command has no scores yet, and gets none."""
    Path("others.py").write_text(Path("colours.py").read_text() + "# Another model\n")
    files = sorted(tuned.parent.iterdir())
    names = ("--name", "first", "--name", "shares of 11 colours")
    ended = command("tune", *words(halves), "--model", "python:others.py", *names)
    assert ended.status == 2
    assert ended.err.endswith(
        "tuned/shares-of-11-colours.trials.json belongs to another search, model or version: "
        "choose another --name or --output\n"
    )
    assert sorted(tuned.parent.iterdir()) == files


def test_other_files_are_no_settings(tuned, halves, command):
    for content, fault in (
        (tuned.read_text().replace("csa", "naclip"), "was edited"),
        ("window: 3", "is not a settings file"),
        ("- 1", "must hold keys and values"),
    ):
        tuned.write_text(content)
        ended = command("run", "--dataset", halves["--dataset"], "--tuned", tuned)
        assert ended.status == 2
        assert fault in ended.err


def test_images_of_the_test_set_are_refused(halves, command):
    for split in (halves["--dataset"], "voc20", "scenes-seg"):
        ended = command("tune", *words(halves, split=split))
        assert ended.status == 2
        assert "is a test set" in ended.err or "is in the test set of halves" in ended.err
    shutil.copy("test/images/one.png", "training/images/three.png")  # under another name
    shutil.copy("test/masks/one.png", "training/masks/three.png")
    ended = command("tune", *words(halves))
    assert ended.status == 2
    assert "image three is in the test set of halves" in ended.err
    assert not Path("tuned").exists()


@pytest.mark.parametrize(
    ("space", "fault"),
    [
        ("windows: [3]", "unknown key `windows`; nearest known: window"),
        ("window: []", "`window` must have an entry"),
        ("{}", "names no factor"),
        ("window: [-3]", "`window[0]` "),
        ("attention: [proxy]", "`attention[0]` "),
        ("prompts: [{lef: [red]}]", "no class or group 'lef'; nearest known: left"),
        ("stride: [8]\nwindow: [4]", "every combination of the space contradicts itself: stride"),
        (f"scale: {[*range(1, 400)]}\nwindow: {[*range(1, 400)]}", "159,201 combinations"),
    ],
)
def test_faults_of_a_space_are_one_line(halves, command, space, fault):
    Path("space.yaml").write_text(space)
    ended = command("tune", *words(halves))
    assert ended.status == 2
    assert fault in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"budget": 0}, "'--budget'"),
        ({"dataset": "scenes-cls"}, "scenes-cls is not a segmentation data set"),
        ({"split": "scenes-seg-train"}, "has other classes than halves"),
    ],
)
def test_bad_options_are_one_line(halves, command, changed, fault):
    ended = command("tune", *words(halves, **changed))
    assert ended.status == 2
    assert fault in ended.err


def test_settings_without_a_difference_are_one(protocol):
    found, faults = tuning.settings_of(protocol, SETTINGS)
    # Without a threshold the scale changes nothing; all 64 are free of contradictions.
    assert (len(found), faults) == (2 * 2 * 2 * (1 + 2) * 2, 0)
    things = replace(protocol, class_names=("wall", *protocol.class_names[1:]))
    assert len(tuning.settings_of(things, SETTINGS)[0]) == 2 * 2 * 2 * 2


def test_prompts_of_a_group_name_its_classes(protocol):
    changed = tuning.with_setting(protocol, {"prompts": SETTINGS["prompts"][1]})
    assert changed.queries == (protocol.queries[0], ("a cat",), ("a dog",), protocol.queries[3])
    assert changed.templates == ("{}", "the {}")


@pytest.fixture
def search(protocol, write_set, tmp_path, monkeypatch):
    """All of SETTINGS on seven images, in shards of three."""
    monkeypatch.setattr(label_maps, "IMAGES_PER_SHARD", 3)
    write_set(tmp_path / "test", {"t": (30, 41)})
    write_set(tmp_path / "training", {f"{i}": (20 + 7 * i, 60 - 5 * i) for i in range(7)})
    fields = ("image_suffix", "short_side", "window", "stride")
    constants = {name: getattr(protocol, name) for name in fields}
    classes = [
        {"name": name, "queries": [*queries]}
        for name, queries in zip(protocol.class_names, protocol.queries, strict=True)
    ]
    content = {"kind": "seg", "images": "images", "masks": "masks", "classes": classes, **constants}
    content["groups"] = {"animals": ["cat", "dog"]}
    paths = [tmp_path / name / "pets.yaml" for name in ("test", "training")]
    for path in paths:
        path.write_text(yaml.safe_dump(content))
    return make_search(*map(str, paths), SETTINGS, 48, 0, RunOptions(batch_size=8))


def test_a_trial_scores_what_a_run_measures(search, encoder):
    options = RunOptions(batch_size=8)
    protocols = [tuning.with_setting(search.protocol, one) for one in search.settings]
    protocols = [one for one in protocols if one.window == 32][::5]
    assert {one.attention for one in protocols} == {"csa", "naclip"}
    *_, counts = tuning.Scorer(encoder, search.data, options).count_images(protocols)
    scores = counts.mean_ious()
    assert len(set(scores)) == len(scores) == 5
    assert scores == [measure(encoder, one, options).metrics["mIoU"] for one in protocols]


def test_counts_go_on_at_any_image(protocol, encoder, encoded, write_set, monkeypatch, tmp_path):
    """Seven images of one window are in shards of three, and in batches of two at most."""
    monkeypatch.setattr(label_maps, "IMAGES_PER_SHARD", 3)
    write_set(tmp_path, {f"{i}": (32, 32) for i in range(7)})
    options = RunOptions(data_root=str(tmp_path), batch_size=2)
    protocol = replace(protocol, window=None, short_side=32)
    protocols = [protocol, replace(protocol, prob_thd=0.3)]
    scorer = tuning.Scorer(encoder, TASK.open_data(protocol, options), options)
    whole = list(scorer.count_images(protocols))
    assert [counts.n_images for counts in whole] == [1, 2, 3, 4, 5, 6, 7]
    assert encoded[-5:] == [2, 1, 2, 1, 1]  # after a trial of the attention
    # The batches that are encoded after 1, 2, ... 7 images were counted.
    expected_batches = ([2, 1, 2, 1, 1], [1, 2, 1, 1], [2, 1, 1], [2, 1, 1], [1, 1], [1], [])
    for counts, batches in zip(whole, expected_batches, strict=True):
        encoded.clear()
        later = list(scorer.count_images(protocols, counts))
        assert encoded == batches
        assert [one.n_images for one in later] == list(range(counts.n_images + 1, 8))
        for one, expected in zip(later, whole[counts.n_images :], strict=True):
            np.testing.assert_array_equal(one.areas, expected.areas)


def test_an_interrupted_search_goes_on(search, encoder, encoded, monkeypatch, tmp_path):
    monkeypatch.setattr(encoders, "load_encoder", lambda spec, **_: encoder)
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_WRITES", 0.0)
    search = replace(search, settings=search.settings[::4])
    run = (search, parse_model_spec("scenes-clip"), RunOptions(batch_size=8))
    steps = []
    whole = tune(*run, tmp_path / "whole", steps.append)
    n_windows = sum(encoded)
    done = [step.done for step in steps if step.phase == "images of all passes"]
    n_images = steps[-2].total
    assert done == sorted(done)
    assert (n_images % 7, set(done)) == (0, set(range(n_images + 1)))
    assert {step.total for step in steps if step.phase == "images of this pass"} == {7}

    def interrupt(step):
        if (step.phase, step.done) == ("images of all passes", 12):
            raise KeyboardInterrupt

    encoded.clear()
    with pytest.raises(KeyboardInterrupt):
        tune(*run, tmp_path / "half", interrupt)
    assert 0 < sum(encoded) < n_windows
    (path,) = (tmp_path / "half").iterdir()
    stored = json.loads(path.read_text())
    assert stored["images"] == 4  # the fifth image of the second pass was not written any more
    n_scored = len(search.settings) - stored["scores"].count(None)
    assert n_scored > 0

    steps.clear()
    again = tune(*run, tmp_path / "half", steps.append)
    assert [step.note for step in steps if step.note] == [
        f"resumed: {n_scored} of {len(search.settings)} settings were scored already, and 4 of 7 "
        "images for the next ones"
    ]
    assert steps[0].done == 11
    assert again.scores == whole.scores
    assert sorted(files_of(tmp_path / "half")) == ["scenes-clip.trials.json", "scenes-clip.yaml"]
    assert files_of(tmp_path / "half") == files_of(tmp_path / "whole")
    encoded.clear()
    tune(*run, tmp_path / "half", no_progress)
    assert not encoded
    other = replace(search, record={**search.record, "seed": 1})
    with pytest.raises(UsageError, match="belongs to another search, model or version"):
        tune(other, *run[1:], tmp_path / "half", no_progress)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def start_and_stop(search, run, folder, image=4):
    """Search until an image of the first pass is counted, and return the file that is there."""

    def interrupt(step):
        if (step.phase, step.done) == ("images of all passes", image):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(search, *run, folder, interrupt)
    (path,) = folder.glob("*.partial.json")
    return path


def of_another_search(content: str) -> str:
    """The same file as another search would write it, with its own hash."""
    stored = json.loads(content) | {"search": "0" * 64}
    del stored["sha256"]
    text = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    return json.dumps({**stored, "sha256": hashlib.sha256(text.encode()).hexdigest()})


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-30],
        lambda content: "",
        lambda content: content.replace('"images": 3', '"images": 2'),
        lambda content: json.dumps({**json.loads(content), "search": "0" * 64}),
        lambda content: "[1]",
        of_another_search,
    ],
)
def test_a_damaged_or_edited_partial_search_is_ignored(
    search, encoder, monkeypatch, tmp_path, damage
):
    monkeypatch.setattr(encoders, "load_encoder", lambda spec, **_: encoder)
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_WRITES", 0.0)
    search = replace(search, settings=search.settings[::16])
    run = (parse_model_spec("scenes-clip"), RunOptions(batch_size=8))
    tune(search, *run, tmp_path / "whole", no_progress)
    path = start_and_stop(search, run, tmp_path / "half")
    assert '"images": 3' in path.read_text()
    path.write_text(damage(path.read_text()))
    steps = []
    tune(search, *run, tmp_path / "half", steps.append)
    assert [step.note for step in steps if step.note] == [
        f"{path} is damaged or was edited, and is ignored"
    ]
    assert files_of(tmp_path / "half") == files_of(tmp_path / "whole")


def test_a_partial_search_of_another_kind_is_ignored(search, encoder, monkeypatch, tmp_path):
    """Another seed, space, split, protocol or model leaves the file of the first search alone."""
    monkeypatch.setattr(encoders, "load_encoder", lambda spec, **_: encoder)
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_WRITES", 0.0)
    search = replace(search, settings=search.settings[::16])
    run = (parse_model_spec("scenes-clip"), RunOptions(batch_size=8))
    first = start_and_stop(search, run, tmp_path)
    content = first.read_bytes()
    others = [
        replace(search, record={**search.record, name: "other"})
        for name in ("seed", "space_sha256", "split_sha256", "protocol_sha256", "budget")
    ]
    infos = [encoder.info] * len(others)
    others.append(search)
    infos.append(encoder.info._replace(weights_sha256="1" * 64))
    for other, info in zip(others, infos, strict=True):
        monkeypatch.setattr(encoder, "info", info)
        steps = []

        def interrupt(step, steps=steps):
            steps.append(step)
            if (step.phase, step.done) == ("images of all passes", 2):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tune(other, *run, tmp_path, interrupt)
        notes = [step.note for step in steps if step.note]
        assert f"{first} belongs to another search, model or version and is ignored" in notes
        assert not any("resumed" in note for note in notes)
        assert first.read_bytes() == content
        for path in tmp_path.glob("*.partial.json"):
            if path != first:
                path.unlink()
    # A model whose name begins like this one's has files of its own.
    monkeypatch.setattr(encoder, "info", infos[0])
    shutil.copy(first, tmp_path / "scenes-clip.x.0123456789ab.partial.json")
    steps = []
    tune(search, *run, tmp_path, steps.append)
    (note,) = [step.note for step in steps if step.note]
    assert "resumed: 0 of 3 settings were scored already, and 3 of 7 images" in note


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on(halves, command, number):
    """The settings have two passes over the images, and the second one is stopped."""
    content = Path("colours.py").read_text()
    begin = "    return F.avg_pool2d"
    assert begin in content
    slow = content.replace(begin, f"    __import__('time').sleep(1.2)\n{begin}")
    Path("colours.py").write_text(slow)
    Path("space.yaml").write_text(f"prompts: {COLOURS}\nwindow: [16, 24]\nstride: [8]")
    for name in range(10):  # 12 images in all, of which a batch has 3 or 8
        for folder, source in (("images", "one"), ("masks", "two")):
            shutil.copy(f"training/{folder}/{source}.png", f"training/{folder}/{name}.png")
    arguments = [str(word) for word in words(halves, budget=100)]
    ended = command("tune", *words(halves, budget=100, output="whole"))
    assert ended.status == 0, ended.err

    process = subprocess.Popen(
        [sys.executable, "-m", "cosmos_eval", "tune", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_interrupts,
    )
    deadline = time.monotonic() + 240
    while not has_begun_a_later_pass(Path("tuned")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "cosmos-eval: interrupted; the same command resumes"
    (path,) = Path("tuned").glob("[!.]*")
    assert path.name.endswith(".partial.json")

    ended = command("tune", *arguments)
    assert ended.status == 0, ended.err
    assert re.search(r"resumed: [1-9]\d* of \d+ settings were scored already, and [1-9]", ended.err)
    resumed, whole = files_of(Path("tuned")), files_of(Path("whole"))
    assert sorted(resumed) == sorted(whole)
    for name in resumed:
        if not name.endswith(".png"):
            assert resumed[name] == whole[name]


def take_interrupts():
    """Let a process end by SIGINT, which jobs in the background of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def has_begun_a_later_pass(folder: Path) -> bool:
    """Whether settings are scored, and images are counted for the next ones."""
    for path in folder.glob("*.partial.json"):
        stored = json.loads(path.read_text())
        return stored["images"] > 0 and any(score is not None for score in stored["scores"])
    return False
