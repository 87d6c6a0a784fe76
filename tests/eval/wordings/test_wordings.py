"""Other wordings: how they are declared, what they change, and that images are encoded once."""

import io
import json
import pickle
import re
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from open_clip import image_transform

import cosmos_core
import cosmos_eval
from cosmos_core.data.scenes import PALETTE, STUFF, THINGS
from cosmos_core.data.scenes.captions import PLACE_PHRASES, STYLES
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.data.scenes.vocabulary import words as vocabulary
from cosmos_eval.cli.app import main
from cosmos_eval.data.readers import FileError
from cosmos_eval.data.wordings import parse_wordings, reworded_caption, with_wordings
from cosmos_eval.protocols import scene_wordings
from cosmos_eval.protocols.scenes import scenes_protocols
from cosmos_eval.results.checked import read_results
from cosmos_eval.runner.plan import jobs_of, make_plan, open_dataset, open_datasets
from cosmos_eval.runner.run import Worker
from cosmos_eval.tasks import find_protocol
from cosmos_eval.tasks.classification import TASK
from cosmos_eval.types import (
    RunOptions,
    UsageError,
    Wording,
    published_protocol_name,
    wording_name,
)

IMAGES = 24
MODELS = ("--model", "scenes-cosmos", "--model", "scenes-clip-long")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sentence_order": "reversed"}, "It runs. A red Dog."),
        ({"drop_first_sentence": True}, "It runs."),
        ({"case": "lower"}, "a red dog. it runs."),
        ({"case": "upper"}, "A RED DOG. IT RUNS."),
        ({"synonyms": {"red": r"cri\1mson", "un": "no"}}, r"A cri\1mson Dog. It runs."),
        ({"templates": ("photo: {}",), "case": "title"}, "Photo: A Red Dog. It Runs."),
        (
            {"drop_first_sentence": True, "templates": ("{} {}",), "synonyms": {"runs": "sleeps"}},
            "It sleeps. It sleeps.",
        ),
    ],
)
def test_captions(changes, expected):
    assert reworded_caption("A red Dog. It runs.", Wording(name="new", **changes)) == expected


def test_captions_of_one_sentence_keep_it():
    wording = Wording(name="new", drop_first_sentence=True, sentence_order="reversed")
    assert reworded_caption("a dog", wording) == "a dog"
    assert reworded_caption("a dog. a cat", wording) == "a cat"


def test_shuffled_sentences():
    """Every number is an order of its own, and the same in every process."""
    caption = "a. b. c. d. e"
    first, second = (
        reworded_caption(caption, Wording(name="n", sentence_order=f"shuffled-{number}"))
        for number in (1, 2)
    )
    assert sorted(first.split(". ")) == sorted(second.split(". ")) == list("abcde")
    assert (first, second) == ("e. a. b. c. d", "a. b. e. c. d")


def elements(sentence: str) -> Counter[str]:
    """The things, colours, stuff and places that a sentence names: all of its content."""
    sentence = re.sub(r"(on )?the left (side|part)", "left side", sentence)
    names = [*THINGS, *PALETTE, *STUFF, *sorted(PLACE_PHRASES.values(), key=len, reverse=True)]
    names += ["left of", "right of", "above the", "below the", "left side", "right side"]
    counts: Counter[str] = Counter()
    for name in names:
        sentence, n_found = re.subn(rf"\b{name}\b", "_", sentence)
        counts[name] += n_found
    return +counts


def test_paraphrases_say_the_same():
    sentences = ["we see an orange fish left of the house", "an orange fish and a tiny red ball"]
    for style in STYLES.values():
        for pattern in (*style.large, *style.small, *style.relation, *style.short):
            values = {"a": "a blue boat", "bare": "blue boat", "place": "at the top"}
            values |= {"s": "sand", "side": "above", "b": "a little tree"}
            if pattern in style.relation:
                values["b"] = "tree"
            sentences.append(pattern.format(**values))
        for pattern in (*style.ground, *style.background, *style.beside, *style.everywhere):
            sentences.append(pattern.format(s="grass", side="left"))
    assert scene_wordings.n_paraphrases() == 20
    known_words = set(vocabulary())
    for sentence in sentences:
        paraphrases = {scene_wordings.paraphrase(sentence, number) for number in range(1, 21)}
        for paraphrase in paraphrases:
            assert elements(paraphrase) == elements(sentence), paraphrase
            assert set(paraphrase.split()) <= known_words
    assert (
        len({scene_wordings.paraphrase("a small red ball on the left", n) for n in range(1, 21)})
        == 20
    )


@pytest.mark.parametrize("sentence", ["a dog on the left", "a red ball on the left of it"])
def test_other_sentences_have_no_paraphrase(sentence):
    with pytest.raises(UsageError, match="only captions of the embedded scenes"):
        scene_wordings.paraphrase(sentence, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Lower": {"case": "lower"}}, "the name 'Lower': use at most 40 small letters, digits"),
        ({"a": {}}, r"a declares no change: write one such as `a: \{case: lower\}`"),
        ({"a": {"template": ["{}"]}}, "a: unknown key `template`; nearest known: templates"),
        ({"a": {"case": "Lower"}}, "a: `case` must be 'lower', 'upper' or 'title'"),
        ({"a": {"templates": ["a photo"]}}, r"a: prompt template 'a photo' must hold '\{\}'"),
        ({"a": {"templates": "openai"}}, "a: unknown template set 'openai'"),
        ({"a": {"sentence_order": "random"}}, "a: `sentence_order` must"),
        ({"a": {"synonyms": {}}}, "a: `synonyms` must have an entry|a: `synonyms` must"),
        ({"a": {"paraphrase": 0}}, "a: `paraphrase` must be greater than or equal to 1"),
        ({"a": {"case": "lower"}, "b": {"case": "lower"}}, "a and b declare the same"),
    ],
)
def test_faults_of_declarations(content, message):
    with pytest.raises(FileError, match=message) as raised:
        parse_wordings(content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("dataset", "wordings", "message"),
    [
        ("scenes-probe", 3, "scenes-probe is a data set of task probe: other wordings are for"),
        ("scenes-cls", 0, "scenes-cls has 1 to 18 automatic wordings, not 0"),
        ("scenes-retrieval", 21, "scenes-retrieval has 1 to 20 automatic wordings, not 21"),
        ("imagenet1k", 81, "imagenet1k has 1 to 80 automatic wordings, not 81"),
        ("scenes-cls", {"a": {"sentence_order": "reversed"}}, "`sentence_order` is for captions"),
        ("scenes-retrieval", {"a": {"templates": ["a {}", "b {}"]}}, "take exactly one template"),
        ("scenes-seg", {"a": {"synonyms": {"we see a appel": "x"}}}, "nearest: we see a apple"),
        ("scenes-cls", "missing.yaml", "missing.yaml: no such file"),
        ("scenes-cls", {}, "wordings: declares no wording"),
        ("scenes-cls", True, "wordings must be a path"),
    ],
)
def test_refused_wordings(dataset, wordings, message):
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        with_wordings([find_protocol(dataset, None)], wordings)
    assert "\n" not in str(raised.value)


def test_automatic_wordings():
    """More wordings begin with the same ones, and the protocol's own one stays as it is."""
    protocols = scenes_protocols()
    for name in ("scenes-cls", "scenes-seg", "scenes-retrieval", "scenes-select"):
        few = with_wordings([protocols[name]], 3)
        many = with_wordings([protocols[name]], "8")
        assert many[:4] == few
        assert few[0] is protocols[name]
        assert len({repr(replace(protocol.wording, name="")) for protocol in many[1:]}) == 8
        for protocol in many[1:]:
            assert published_protocol_name(protocol.protocol_name) == "scenes"
            assert wording_name(protocol.protocol_name) == protocol.wording.name
    templates = [
        protocol.wording.templates
        for protocol in with_wordings([find_protocol("imagenet1k", None)], 80)[1:]
    ]
    assert len(set(templates)) == 80
    captions = with_wordings([find_protocol("coco-karpathy", None)], 5)
    assert [protocol.wording.name for protocol in captions[1:]] == [
        "reversed", "drop-first", "lower", "upper", "title",
    ]  # fmt: skip


class CountingModel:
    """The bundled `scenes-clip`, which counts the images and batches that it encodes."""

    def __init__(self) -> None:
        path = cosmos_core.bundled_models()["scenes-clip"].weights_path
        self.clip = cosmos_core.load_model(path)
        self.images = 0
        self.towers = cosmos_eval.TwoTower(
            encode_image=self.encode_image,
            encode_text=self.clip.encode_text,
            transform=image_transform(64, is_train=False),
            tokenize=scenes_tokenizer(),
            name="counting",
            weights=self.clip,
        )

    def encode_image(self, images):
        self.images += len(images)
        return self.clip.encode_image(images)


@pytest.mark.parametrize("dataset", ["scenes-cls", "scenes-retrieval", "scenes-select"])
def test_images_are_encoded_once(dataset, tmp_path):
    """No embedding is cached for a model object: the pass itself is shared by all wordings."""
    model = CountingModel()
    alone = cosmos_eval.evaluate(model.towers, dataset, limit=IMAGES)
    images_alone, model.images = model.images, 0
    row = cosmos_eval.evaluate(model.towers, dataset, limit=IMAGES, wordings=4, output=tmp_path)
    assert model.images == images_alone
    assert (row.metrics, row.protocol) == (alone.metrics, "scenes")
    assert row.provenance["hashes"] == alone.provenance["hashes"]
    rows = read_results(tmp_path)
    assert len(rows) == 5
    contents = {row.provenance["hashes"]["content"] for row in rows}
    assert len(contents) == 1


def test_wordings_need_a_folder():
    with pytest.raises(UsageError, match="wordings needs output"):
        cosmos_eval.evaluate("scenes-clip", "scenes-cls", wordings=3)


CLASSES = ("--dataset", "scenes-cls", "--limit", str(IMAGES))
CAPTIONS = ("--dataset", "scenes-select", "--limit", str(IMAGES))
SIDES = ("--model", "scenes-cosmos", "--model", "scenes-clip-long")
OVER_WORDINGS = ("--over", "wording")


class WordedRun(NamedTuple):
    """A run of two models on two data sets with three other wordings of each."""

    folder: Path
    output: str


@pytest.fixture(scope="module")
def worded_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "r"
    arguments = ["run", *MODELS, *CLASSES, *CAPTIONS[:2], "--wordings", "3"]
    output = io.StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit) as ended:
        main([*arguments, "--output", str(folder)])
    assert not ended.value.code
    return WordedRun(folder, output.getvalue())


def test_a_run_shows_means_over_wordings(command, worded_run):
    assert "Over wordings, with intervals that include wording" in worded_run.output
    assert "wording-" not in worded_run.output  # the tables show the published wording
    assert command("verify", worded_run.folder).status == 0
    name = "scenes-cosmos__scenes-cls__scenes-wording-template-1__first-24-only.json"
    result = json.loads((worded_run.folder / name).read_text())
    expected = {"name": "template-1", "templates": ["there is a large {}"]}
    assert result["provenance"]["wording"] == expected


def test_the_published_wording_is_measured_as_without_others(command, worded_run):
    ended = command("run", *MODELS, *CLASSES, *CAPTIONS[:2], "--output", "usual")
    assert ended.status == 0
    paths = [*Path("usual").glob("*.json")]
    assert len(paths) == 4
    for path in paths:
        usual = json.loads(path.read_text())
        worded = json.loads((worded_run.folder / path.name).read_text())
        assert usual["metrics"] == worded["metrics"]
        assert usual["intervals"] == worded["intervals"]
        assert "wording" not in worded["provenance"]
    ended = command("compare", "usual", *SIDES[:2], *OVER_WORDINGS)
    assert ended.status == 2
    assert "A has no results with other wordings" in ended.err


def test_other_commands_leave_other_wordings_out(command, worded_run):
    compared = json.loads(command("compare", worded_run.folder, *SIDES, "--json").out)
    assert {test["protocol"] for test in compared["tests"]} == {"scenes"}
    assert "left out: 12 results with other wordings: " in compared["notes"][0]
    assert "wording" not in command("leaderboard", worded_run.folder).out
    audited = command("audit", worded_run.folder)
    assert "wording" not in audited.out
    assert "not audited: results with other wordings: 12" in audited.err


def test_models_are_compared_over_wordings(command, worded_run):
    arguments = ("compare", worded_run.folder, *SIDES, *OVER_WORDINGS)
    ended = command(*arguments)
    assert ended.status == 0
    assert re.match(r"A better over wordings in \d, B in \d of 2 metrics\n", ended.out)
    headline = command(*arguments, "--metrics", "acc1").out.splitlines()[0]
    assert re.fullmatch(
        r"A better in \d of 3 wordings(, equal in \d)?; mean difference [+-]?[\d.]+ "
        r"\[[+-]?[\d.]+, [+-]?[\d.]+\] incl. wording",
        headline,
    )
    assert len(headline) <= 90
    (test,) = json.loads(command(*arguments, "--metrics", "acc1", "--json").out)["tests"]
    means = [row["a"] - row["b"] for row in test["wordings"]]
    assert test["mean"] == pytest.approx(sum(means) / 3)
    assert means[0] == min(means)
    assert means[1] == max(means)
    assert test["interval"]["low"] < test["mean"] < test["interval"]["high"]


def test_a_single_model_has_means_over_wordings(command, worded_run):
    ended = command("compare", worded_run.folder, *SIDES[:2], *OVER_WORDINGS)
    assert ended.out.startswith("means over wordings of 2 metrics; intervals include wording\n")
    frame = cosmos_eval.compare(worded_run.folder, models=["scenes-cosmos"], over="wording").frame
    paraphrases = [f"paraphrase-{number}" for number in (1, 2, 3)]
    templates = [f"template-{number}" for number in (1, 2, 3)]
    assert sorted(set(frame.wording)) == [*paraphrases, "published", *templates]


def test_too_few_wordings_give_no_interval(command):
    Path("own.yaml").write_text("lower: {case: lower}\n")
    options = ("--wordings", "own.yaml", "--output", "few")
    ended = command("run", *MODELS, *CLASSES, *options)
    assert ended.status == 0
    assert "1 wording cannot show how much wording matters" in ended.err
    refused = command("compare", "few", *SIDES[:2], *OVER_WORDINGS)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "an interval needs 3 or more" in refused.err
    # The captions of scenes are in lower case.
    refused = command("run", *MODELS, *CAPTIONS, *options)
    assert refused.status == 2
    assert "leaves all captions of scenes-select as they are" in refused.err


@pytest.mark.parametrize(
    "dataset", ["scenes-cls", "scenes-retrieval", "scenes-seg", "scenes-select"]
)
def test_wordings_are_one_job(dataset):
    """They share one opened data set, and the pass over its images, also in segmentation."""
    options = RunOptions(limit=4)
    plan = make_plan(datasets=[dataset], models=["scenes-clip"], wordings=3, options=options)
    datasets = open_datasets(plan)
    (job,) = jobs_of(plan, datasets)
    assert len(job.datasets) == 4
    published, *other_wordings = datasets
    images = "samples" if dataset == "scenes-seg" else "images"
    for other in other_wordings:
        assert getattr(other.data, images) is getattr(published.data, images)


def test_another_process_opens_the_same_wording():
    """A data set is sent without its data, which a worker opens again."""
    plan = make_plan(datasets=["scenes-select"], wordings=1, options=RunOptions(limit=4))
    _, worded = open_datasets(plan)
    sent = pickle.loads(pickle.dumps(worded))
    assert sent.data is None
    assert open_dataset(sent.protocol, plan.options).data.captions == worded.data.captions


def test_another_process_measures_the_same_wording():
    options = RunOptions(limit=4)
    plan = make_plan(
        datasets=["scenes-select"], models=["scenes-clip"], wordings=1, options=options
    )
    (job,) = jobs_of(plan, open_datasets(plan))
    sent = pickle.loads(pickle.dumps(job))
    hashes = [
        [result.row.provenance["hashes"] for result in Worker().run(job)] for job in (job, sent)
    ]
    assert hashes[0] == hashes[1]
    published, worded = hashes[0]
    assert published["sample_list"] != worded["sample_list"]


def test_the_example():
    example = Path(__file__).parents[3] / "examples" / "wordings.yaml"
    plan = make_plan(datasets=["scenes-cls"], wordings=example, options=RunOptions(limit=4))
    assert [wording_name(protocol.protocol_name) for protocol in plan.protocols] == [
        "", "photo", "upper", "insects", "clip-7",
    ]  # fmt: skip
    prompts = [TASK.prompts(dataset.protocol, dataset.data) for dataset in open_datasets(plan)]
    (upper,) = prompts[2]
    assert upper.names[:2] == ("APPLE", "BALL")
    assert upper.templates[0] == "A LARGE {}"
    (insects,) = prompts[3]
    assert insects.names[1:7:5] == ("toy", "ladybug")
    assert insects.templates == prompts[0][0].templates


def test_an_unknown_class_is_refused_before_a_model_is_loaded():
    wordings = {"new": {"synonyms": {"aple": "fruit"}}}
    plan = make_plan(datasets=["scenes-cls"], wordings=wordings, options=RunOptions(limit=4))
    with pytest.raises(UsageError, match="scenes-cls has no class 'aple'; nearest: apple"):
        open_datasets(plan)


def test_captions_to_choose_from_stay_different():
    wordings = {"new": {"synonyms": dict.fromkeys(PALETTE, "grey")}}
    plan = make_plan(datasets=["scenes-select"], wordings=wordings, options=RunOptions(limit=60))
    with pytest.raises(UsageError, match="wording new makes captions of scenes-select equal"):
        open_datasets(plan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": RunOptions(stream=True)}, "--wordings needs images again"),
        ({"tuned": Path("tuned.yaml")}, "leave --wordings out"),
    ],
)
def test_options_that_exclude_wordings(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_plan(wordings=3, **arguments)
