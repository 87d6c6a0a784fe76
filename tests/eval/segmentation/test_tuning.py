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
from cosmos_eval.results.checked import read_checked
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
    """Write a test set, a training set, a model and a space; return the options of `tune` for them.

    The model is the one of the examples, which describes an image by the shares of 11 colours.
    """
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
    """Return options as words of a command line, some of them changed or added."""
    for name, value in changed.items():
        options = {**options, f"--{name}": value}
    return [word for option_and_value in options.items() for word in option_and_value]


def write_another_model() -> str:
    """Write a copy of the model that differs in a comment only; return its specification."""
    Path("others.py").write_text(Path("colours.py").read_text() + "# Another model\n")
    return "python:others.py"


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


HUGE = 123456789  # a placeholder for 1e999, a number that no float can hold


def swap_best_and_worst_score(record: dict) -> None:
    best, *_, worst = record["trials"]
    best["mIoU"], worst["mIoU"] = worst["mIoU"], best["mIoU"]


def set_a_score_to_nan(record: dict) -> None:
    record["trials"][1]["mIoU"] = float("nan")


def set_a_score_to_an_overflow(record: dict) -> None:
    record["trials"][2]["mIoU"] = HUGE


def reverse_the_trials(record: dict) -> None:
    record["trials"].reverse()


def remove_the_trials(record: dict) -> None:
    del record["trials"]


def remove_the_hash(record: dict) -> None:
    """Write the file as earlier versions did, without a hash."""
    del record["sha256"]


def replace_the_hash_by_a_number(record: dict) -> None:
    record["sha256"] = 1


EDITS = (
    swap_best_and_worst_score,
    set_a_score_to_nan,
    set_a_score_to_an_overflow,
    reverse_the_trials,
    remove_the_trials,
    remove_the_hash,
    replace_the_hash_by_a_number,
)


def test_edited_trials_are_refused_and_choose_no_settings(tuned, halves, command):
    (path,) = tuned.parent.glob("*.trials.json")
    trials_as_written, settings_as_written = path.read_text(), tuned.read_bytes()
    for edit in EDITS:
        record = json.loads(trials_as_written)
        edit(record)
        path.write_text(json.dumps(record).replace(str(HUGE), "1e999"))
        ended = command("tune", *words(halves))
        assert ended.status == 2
        (line,) = ended.err.splitlines()
        assert f"{path} was edited after it was written" in line or "not JSON" in line
        assert tuned.read_bytes() == settings_as_written
    path.unlink()
    assert command("tune", *words(halves)).status == 0
    assert tuned.read_bytes() == settings_as_written
    # The same content in another layout was not edited.
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert command("tune", *words(halves)).status == 0


def test_a_tuned_result_has_a_protocol_of_its_own(tuned, halves, command):
    run_halves = ["run", "--dataset", halves["--dataset"]]
    chosen = yaml.safe_load(tuned.read_text())
    ended = command(*run_halves, "--tuned", tuned, "--json")
    (result,) = json.loads(ended.out)
    assert result["metrics"]["mIoU"] == 1
    assert result["provenance"]["tuned"] == chosen
    assert (chosen["search"]["budget"], chosen["search"]["images"], chosen["score"]) == (3, 2, 1)
    assert result["protocol"].startswith("tuned-")
    assert command("verify").status == 0
    dry_run = command(*run_halves, "--tuned", tuned, "--dry-run", "--json")
    assert json.loads(dry_run.out)[0]["protocol"] == result["protocol"]
    # A report predicts by the chosen settings: others would not give the measured label maps.
    results = read_checked(result_paths(Path("runs/eval")))
    gallery = collect(results, RunOptions(), datasets=[str(halves["--dataset"])])
    assert {example.protocol for example in gallery.segmentation} == {result["protocol"]}
    models_by_example = [list(example.predictions) for example in gallery.segmentation]
    assert models_by_example == [["shares of 11 colours"]] * 2
    assert not [note for note in gallery.notes if "label maps" in note]
    command(*run_halves, "--model", halves["--model"])
    leaderboard = command("leaderboard", "--format", "json")
    protocols = {row["protocol"] for row in json.loads(leaderboard.out)}
    assert protocols == {"user", result["protocol"]}


def test_only_results_of_equal_searches_are_compared(tuned, halves, command):
    def run_and_return_protocol(settings, output):
        run_halves = ["run", "--dataset", halves["--dataset"]]
        ended = command(*run_halves, "--tuned", settings, "--output", output, "--json")
        return json.loads(ended.out)[0]["protocol"]

    other_model = write_another_model()
    assert command("tune", *words(halves, model=other_model, output="others")).status == 0
    (other_tuned,) = Path("others").glob("*.yaml")
    record = yaml.safe_load(other_tuned.read_text())
    assert run_and_return_protocol(tuned, "a") == run_and_return_protocol(other_tuned, "b")
    assert command("compare", "a", "b").status == 0
    # The same search with other values for another model is comparable, too.
    del record["sha256"]
    record["settings"]["prompts"] = {"left": ["red"], "right": ["red"]}
    other_tuned.write_bytes(tuning.settings_file(record))
    protocol = run_and_return_protocol(other_tuned, "b")
    ended = command("compare", "a", "b")
    assert ended.status == 0
    assert ended.err == "note: other metrics not shown: 2 (--all-metrics shows them)\n"
    assert command("tune", *words(halves, budget=2, output="less")).status == 0
    (tuned_with_less_budget,) = Path("less").glob("*.yaml")
    assert run_and_return_protocol(tuned_with_less_budget, "c") != protocol
    ended = command("compare", "a", "c")
    assert ended.status == 2
    assert "protocol is tuned-" in ended.err


def test_settings_of_another_model_are_refused_unless_stated(tuned, halves, command):
    shutil.copy("colours.py", "others.py")
    run_tuned = ["run", "--dataset", halves["--dataset"], "--tuned", tuned, "--json"]
    run_other_model = [*run_tuned, "--model", "python:others.py"]
    ended = command(*run_other_model)
    assert ended.status == 2
    assert "chosen for python:colours.py, not python:others.py: add --transfer" in ended.err
    protocol_of_other_model = json.loads(command(*run_other_model, "--transfer").out)[0]["protocol"]
    protocol_of_tuned_model = json.loads(command(*run_tuned).out)[0]["protocol"]
    assert protocol_of_other_model != protocol_of_tuned_model
    Path("colours.py").write_text(Path("colours.py").read_text() + "# changed\n")
    ended = command(*run_tuned)
    assert ended.status == 2
    assert "chosen for another state of python:colours.py" in ended.err


def test_models_of_one_name_are_refused_before_any_is_scored(halves, command):
    """Files of models can state a name. Here, both state the name that the example has."""
    both_models = [*words(halves), "--model", write_another_model()]
    ended = command("tune", *both_models)
    assert ended.status == 2
    assert ended.err == (
        "cosmos-eval: python:colours.py and python:others.py are both called shares of 11 "
        "colours: give each model a name with --name, or tune each into another --output\n"
    )
    assert not Path("tuned").exists()
    assert command("tune", *both_models, "--name", "a", "--name", "b").status == 0
    files = ["a.trials.json", "a.yaml", "b.trials.json", "b.yaml", "trials.png"]
    assert sorted(path.name for path in Path("tuned").iterdir()) == files


def test_files_of_another_model_are_not_replaced(tuned, halves, command):
    """The first model of the command has no scores yet, and gets none."""
    files = sorted(tuned.parent.iterdir())
    names = ("--name", "first", "--name", "shares of 11 colours")
    ended = command("tune", *words(halves), "--model", write_another_model(), *names)
    assert ended.status == 2
    assert ended.err.endswith(
        "tuned/shares-of-11-colours.trials.json belongs to another search, model or version: "
        "choose another --name or --output\n"
    )
    assert sorted(tuned.parent.iterdir()) == files


def test_edited_and_foreign_files_are_refused_as_settings(tuned, halves, command):
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
    # A test image is recognised under another name, too.
    shutil.copy("test/images/one.png", "training/images/three.png")
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


def test_settings_that_predict_the_same_are_tried_once(protocol):
    settings, n_contradictions = tuning.settings_of(protocol, SETTINGS)
    # Of the threshold and the scale, three of four pairs differ: the scale matters only with a
    # threshold. The other four factors have two values each.
    assert (len(settings), n_contradictions) == (2 * 2 * 2 * (1 + 2) * 2, 0)
    # Without a background class, neither of them matters.
    without_background = replace(protocol, class_names=("wall", *protocol.class_names[1:]))
    settings, _ = tuning.settings_of(without_background, SETTINGS)
    assert len(settings) == 2 * 2 * 2 * 2


def test_prompts_of_a_group_name_its_classes(protocol):
    changed = tuning.with_setting(protocol, {"prompts": SETTINGS["prompts"][1]})
    assert changed.queries == (protocol.queries[0], ("a cat",), ("a dog",), protocol.queries[3])
    assert changed.templates == ("{}", "the {}")


@pytest.fixture
def search(protocol, write_set, tmp_path, monkeypatch):
    """Return the search of all SETTINGS on seven training images, which are in shards of three."""
    monkeypatch.setattr(label_maps, "IMAGES_PER_SHARD", 3)
    write_set(tmp_path / "test", {"t": (30, 41)})
    write_set(tmp_path / "training", {f"{i}": (20 + 7 * i, 60 - 5 * i) for i in range(7)})
    fields = ("image_suffix", "short_side", "window", "stride")
    constants = {name: getattr(protocol, name) for name in fields}
    classes = [
        {"name": name, "queries": [*queries]}
        for name, queries in zip(protocol.class_names, protocol.queries, strict=True)
    ]
    description = {
        "kind": "seg",
        "images": "images",
        "masks": "masks",
        "classes": classes,
        "groups": {"animals": ["cat", "dog"]},
        **constants,
    }
    test_set, training_set = (tmp_path / name / "pets.yaml" for name in ("test", "training"))
    for path in (test_set, training_set):
        path.write_text(yaml.safe_dump(description))
    # The budget of 48 is the whole space (test_settings_that_predict_the_same_are_tried_once).
    return make_search(str(test_set), str(training_set), SETTINGS, 48, 0, RunOptions(batch_size=8))


def test_a_trial_scores_what_a_run_measures(search, encoder):
    options = RunOptions(batch_size=8)
    protocols = [tuning.with_setting(search.protocol, setting) for setting in search.settings]
    # Every fifth setting of the smaller window: few enough to measure each of them by a run.
    protocols = [protocol for protocol in protocols if protocol.window == 32][::5]
    assert {protocol.attention for protocol in protocols} == {"csa", "naclip"}
    *_, counts = tuning.Scorer(encoder, search.data, options).count_images(protocols)
    scores = counts.mean_ious()
    assert len(set(scores)) == len(scores) == 5
    measurements = [measure(encoder, protocol, options) for protocol in protocols]
    assert scores == [measurement.metrics["mIoU"] for measurement in measurements]


def test_counts_go_on_at_any_image(protocol, encoder, encoded, write_set, monkeypatch, tmp_path):
    """Seven images of one window are in shards of three, and in batches of two at most."""
    monkeypatch.setattr(label_maps, "IMAGES_PER_SHARD", 3)
    write_set(tmp_path, {f"{i}": (32, 32) for i in range(7)})
    options = RunOptions(data_root=str(tmp_path), batch_size=2)
    protocol = replace(protocol, window=None, short_side=32)
    protocols = [protocol, replace(protocol, prob_thd=0.3)]
    scorer = tuning.Scorer(encoder, TASK.open_data(protocol, options), options)
    counts_by_image = list(scorer.count_images(protocols))
    assert [counts.n_images for counts in counts_by_image] == [1, 2, 3, 4, 5, 6, 7]
    assert encoded[-5:] == [2, 1, 2, 1, 1]  # after a trial of the attention
    # The batches that are encoded after 1, 2, ... 7 images were counted.
    expected_batches = ([2, 1, 2, 1, 1], [1, 2, 1, 1], [2, 1, 1], [2, 1, 1], [1, 1], [1], [])
    for start, batches in zip(counts_by_image, expected_batches, strict=True):
        encoded.clear()
        resumed_counts = list(scorer.count_images(protocols, start))
        assert encoded == batches
        n_images = [counts.n_images for counts in resumed_counts]
        assert n_images == list(range(start.n_images + 1, 8))
        later_counts = counts_by_image[start.n_images :]
        for counts, expected in zip(resumed_counts, later_counts, strict=True):
            np.testing.assert_array_equal(counts.areas, expected.areas)


@pytest.fixture
def tiny_models(encoder, monkeypatch) -> None:
    """Let `tune` load the tiny encoder for any model, and write its partial file at every image."""

    def load_tiny_encoder(spec, **options):
        return encoder

    monkeypatch.setattr(encoders, "load_encoder", load_tiny_encoder)
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_WRITES", 0.0)


class Interrupt:
    """Progress of a search that is interrupted as soon as so many images of all passes are done."""

    def __init__(self, n_images: int) -> None:
        self.n_images = n_images
        self.steps = []

    def __call__(self, step) -> None:
        self.steps.append(step)
        if (step.phase, step.done) == ("images of all passes", self.n_images):
            raise KeyboardInterrupt


def notes_of(steps) -> list[str]:
    return [step.note for step in steps if step.note]


def test_an_interrupted_search_goes_on(search, tiny_models, encoded, tmp_path):
    search = replace(search, settings=search.settings[::4])
    model_and_options = (parse_model_spec("scenes-clip"), RunOptions(batch_size=8))
    steps = []
    uninterrupted = tune(search, *model_and_options, tmp_path / "whole", steps.append)
    n_windows = sum(encoded)
    done = [step.done for step in steps if step.phase == "images of all passes"]
    n_images = steps[-2].total
    assert done == sorted(done)
    assert (n_images % 7, set(done)) == (0, set(range(n_images + 1)))
    assert {step.total for step in steps if step.phase == "images of this pass"} == {7}

    encoded.clear()
    with pytest.raises(KeyboardInterrupt):
        tune(search, *model_and_options, tmp_path / "half", Interrupt(12))
    assert 0 < sum(encoded) < n_windows
    (path,) = (tmp_path / "half").iterdir()
    stored = json.loads(path.read_text())
    # Of the 12 images, 7 are of the first pass. The fifth of the second was not written any more.
    assert stored["images"] == 4
    n_scored = len(search.settings) - stored["scores"].count(None)
    assert n_scored > 0

    steps.clear()
    resumed = tune(search, *model_and_options, tmp_path / "half", steps.append)
    assert notes_of(steps) == [
        f"resumed: {n_scored} of {len(search.settings)} settings were scored already, and 4 of 7 "
        "images for the next ones"
    ]
    assert steps[0].done == 11
    assert resumed.scores == uninterrupted.scores
    assert sorted(files_of(tmp_path / "half")) == ["scenes-clip.trials.json", "scenes-clip.yaml"]
    assert files_of(tmp_path / "half") == files_of(tmp_path / "whole")
    encoded.clear()
    tune(search, *model_and_options, tmp_path / "half", no_progress)
    assert not encoded
    other_search = replace(search, record={**search.record, "seed": 1})
    with pytest.raises(UsageError, match="belongs to another search, model or version"):
        tune(other_search, *model_and_options, tmp_path / "half", no_progress)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder by its name, hidden files left out."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def interrupt_at_fourth_image(search, model_and_options, folder):
    """Search until the fourth image of the first pass is done, and return the partial file."""
    with pytest.raises(KeyboardInterrupt):
        tune(search, *model_and_options, folder, Interrupt(4))
    (path,) = folder.glob("*.partial.json")
    return path


def cut_the_end(content: str) -> str:
    return content[:-30]


def remove_everything(content: str) -> str:
    return ""


def change_the_number_of_images(content: str) -> str:
    return content.replace('"images": 3', '"images": 2')


def change_the_search(content: str) -> str:
    """Name another search, and keep the hash of the file."""
    return json.dumps({**json.loads(content), "search": "0" * 64})


def replace_by_a_list(content: str) -> str:
    return "[1]"


def change_search_and_hash(content: str) -> str:
    """Write the file as another search would, with the hash of its content."""
    stored = json.loads(content) | {"search": "0" * 64}
    del stored["sha256"]
    text = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    return json.dumps({**stored, "sha256": hashlib.sha256(text.encode()).hexdigest()})


@pytest.mark.parametrize(
    "damage",
    [
        cut_the_end,
        remove_everything,
        change_the_number_of_images,
        change_the_search,
        replace_by_a_list,
        change_search_and_hash,
    ],
)
def test_a_damaged_or_edited_partial_search_is_ignored(search, tiny_models, tmp_path, damage):
    search = replace(search, settings=search.settings[::16])
    model_and_options = (parse_model_spec("scenes-clip"), RunOptions(batch_size=8))
    tune(search, *model_and_options, tmp_path / "whole", no_progress)
    path = interrupt_at_fourth_image(search, model_and_options, tmp_path / "half")
    assert '"images": 3' in path.read_text()
    path.write_text(damage(path.read_text()))
    steps = []
    tune(search, *model_and_options, tmp_path / "half", steps.append)
    assert notes_of(steps) == [f"{path} is damaged or was edited, and is ignored"]
    assert files_of(tmp_path / "half") == files_of(tmp_path / "whole")


def test_a_partial_file_of_another_search_or_model_is_ignored(
    search, tiny_models, encoder, monkeypatch, tmp_path
):
    """Another seed, space, split, protocol or model leaves the file of the first search alone."""
    search = replace(search, settings=search.settings[::16])
    model_and_options = (parse_model_spec("scenes-clip"), RunOptions(batch_size=8))
    first_path = interrupt_at_fourth_image(search, model_and_options, tmp_path)
    content = first_path.read_bytes()
    encoder_info = encoder.info
    searches_and_infos = [
        (replace(search, record={**search.record, name: "other"}), encoder_info)
        for name in ("seed", "space_sha256", "split_sha256", "protocol_sha256", "budget")
    ]
    other_weights = encoder_info._replace(weights_sha256="1" * 64)
    searches_and_infos.append((search, other_weights))
    for other_search, info in searches_and_infos:
        monkeypatch.setattr(encoder, "info", info)
        progress = Interrupt(2)
        with pytest.raises(KeyboardInterrupt):
            tune(other_search, *model_and_options, tmp_path, progress)
        notes = notes_of(progress.steps)
        assert f"{first_path} belongs to another search, model or version and is ignored" in notes
        assert not any("resumed" in note for note in notes)
        assert first_path.read_bytes() == content
        for path in tmp_path.glob("*.partial.json"):
            if path != first_path:
                path.unlink()
    # A model whose name begins like this one's has files of its own.
    monkeypatch.setattr(encoder, "info", encoder_info)
    shutil.copy(first_path, tmp_path / "scenes-clip.x.0123456789ab.partial.json")
    steps = []
    tune(search, *model_and_options, tmp_path, steps.append)
    (note,) = notes_of(steps)
    assert "resumed: 0 of 3 settings were scored already, and 3 of 7 images" in note


def write_training_images(count: int) -> None:
    """Add copies of the first image, each with the label map of the second, to the training set."""
    for number in range(count):
        shutil.copy("training/images/one.png", f"training/images/{number}.png")
        shutil.copy("training/masks/two.png", f"training/masks/{number}.png")


def slow_the_model_down(seconds: float) -> None:
    """Let the model sleep before it encodes a batch."""
    content = Path("colours.py").read_text()
    encoding = "    return F.avg_pool2d"
    assert encoding in content
    slow_encoding = f"    __import__('time').sleep({seconds})\n{encoding}"
    Path("colours.py").write_text(content.replace(encoding, slow_encoding))


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on(halves, command, signal_number):
    """The settings have two passes over the images, and the second one is stopped."""
    slow_the_model_down(1.2)
    Path("space.yaml").write_text(f"prompts: {COLOURS}\nwindow: [16, 24]\nstride: [8]")
    write_training_images(10)  # 12 images in all, of which a batch has 3 or 8
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
    process.send_signal(signal_number)
    _, err = process.communicate()
    if signal_number == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "cosmos-eval: interrupted; the same command resumes"
    (path,) = Path("tuned").glob("[!.]*")
    assert path.name.endswith(".partial.json")

    ended = command("tune", *arguments)
    assert ended.status == 0, ended.err
    assert re.search(r"resumed: [1-9]\d* of \d+ settings were scored already, and [1-9]", ended.err)
    resumed_files, uninterrupted_files = files_of(Path("tuned")), files_of(Path("whole"))
    assert sorted(resumed_files) == sorted(uninterrupted_files)
    for name in resumed_files:
        if not name.endswith(".png"):
            assert resumed_files[name] == uninterrupted_files[name]


def take_interrupts():
    """Let a process end by SIGINT, which jobs in the background of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def has_begun_a_later_pass(folder: Path) -> bool:
    """Return whether settings are scored, and images are counted for the next ones."""
    for path in folder.glob("*.partial.json"):
        stored = json.loads(path.read_text())
        return stored["images"] > 0 and any(score is not None for score in stored["scores"])
    return False
