"""Results of other tools beside measured ones: in leaderboards, suites and comparisons."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from support.exchange import CLIP_BENCHMARK, CLIP_BENCHMARK_TABLE, DATACOMP, OPENCLIP
from support.results import store_result

import cosmos_eval
from cosmos_eval.protocols import find_known
from cosmos_eval.results.exchange.names import name_rows
from cosmos_eval.results.exchange.places import find_results
from cosmos_eval.tasks import task_named
from cosmos_eval.types import UsageError

IMAGENET = {"dataset": "wds/imagenet1k", "protocol": "datacomp"}
H14 = "openclip:ViT-H-14-378-quickgelu/dfn5b"
SAME = {"hashes": {"sample_list": "1" * 64}}
# Three of the five made-up samples of support.results are right.
OURS = 0.6


def board(command, *arguments):
    ended = command("leaderboard", *arguments, "--json")
    assert ended.status == 0, ended.err
    return json.loads(ended.out), ended.err


@pytest.fixture
def measured(tmp_path):
    """Two models measured on ImageNet, of which each is worse than OpenCLIP's best."""
    folder = tmp_path / "runs"
    for spec in ("scenes-clip", "scenes-cosmos"):
        store_result(folder, "cls", **IMAGENET, model={"spec": spec}, provenance=SAME)
    return folder


def test_imported_results_are_not_ranked_and_change_no_rank(command, measured):
    alone, _ = board(command, measured)
    records, notes = board(command, measured, OPENCLIP / "openclip_results.csv")
    imported = [record for record in records if record["source"] == "imported"]
    assert [record for record in records if record["source"] == "measured"] == alone
    assert len(imported) == 3 * 38
    assert all(record["intervals"] == {} for record in imported)
    assert all("standings" not in record for record in imported)
    (record,) = [
        result
        for result in imported
        if result["model"] == H14 and result["dataset"] == IMAGENET["dataset"]
    ]
    assert record["metrics"] == {"acc1": 0.8437}
    assert notes == (
        f"note: {OPENCLIP / 'openclip_results.csv'}: not read: params (M), FLOPs (B), "
        "Average perf. on 38 datasets\n"
    )


def test_the_table_marks_them(command, measured):
    arguments = ["--datasets", "wds/imagenet1k", "--format", "md"]
    shown = command("leaderboard", measured, OPENCLIP, *arguments).out
    assert f"| {H14} | imported | 84.4 |" in shown
    assert shown.count("**") == 2 * 2  # both measured models are equally good and bold
    assert "- Not ranked: imported numbers, which another tool wrote to a file" in shown


def test_metrics_that_are_no_headlines_are_shown_if_there_are_no_others(command, tmp_path):
    record = json.loads(next(CLIP_BENCHMARK.glob("*retrieval.json")).read_text())
    record["metrics"] = {"image_retrieval_recall@5": 0.375}
    (tmp_path / "a.json").write_text(json.dumps(record))
    shown = command("leaderboard", "a.json", "--format", "md").out
    assert "text to image R@5" in shown
    assert "| openclip:tiny/data/tiny.pt | imported | 37.5 |" in shown


def test_the_mean_of_a_suite_is_the_average_of_openclips_table(command):
    table = OPENCLIP / "openclip_results.csv"
    ended = command("leaderboard", table, "--suite", "datacomp-38", "--json")
    models = json.loads(ended.out)["suite"]["models"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    averages = {
        f"openclip:{row['name']}/{row['pretrained']}": row["Average perf. on 38 datasets"]
        for row in rows
    }
    assert {model["model"]: f"{model['mean']['value']:.4f}" for model in models} == averages
    assert all(model["source"] == "imported" and model["ranks"] is None for model in models)
    assert all(set(model["mean"]) == {"value"} for model in models)


def test_a_suite_names_imported_models_that_lack_members(command):
    ended = command("leaderboard", DATACOMP, OPENCLIP, "--suite", "datacomp-38", "--format", "md")
    assert "Not shown, since their imported numbers lack members: datacomp, openclip:" in ended.out


def test_a_folder_may_mix_results_of_all_tools(command, measured):
    shutil.copy(DATACOMP, measured / "eval_results.jsonl")
    shutil.copytree(CLIP_BENCHMARK, measured / "cb")
    shutil.copy(CLIP_BENCHMARK_TABLE, measured / "cb.csv")  # repeats the JSON files
    (measured / "log.jsonl").write_text('{"step": 1}\n')  # neither is a file of results
    (measured / "other.csv").write_text("a,b\n1,2\n")
    records, _ = board(command, measured)
    sources = [record["source"] for record in records]
    assert sources.count("measured") == 2
    assert sources.count("imported") == 11 + 4
    assert {record["model"] for record in records} == {
        *("scenes-clip", "scenes-cosmos", "runs", "openclip:tiny/data/tiny.pt")
    }


def test_both_tables_of_openclip_are_joined():
    imported = find_results([OPENCLIP]).imported
    (result,) = [
        row for row in imported if row.model == H14 and row.dataset == "wds/misc/winogavil"
    ]
    assert result.metrics == {"jaccard_10-12": 0.5674, "jaccard": 0.6123, "jaccard_5-6": 0.6265}


def test_two_files_that_contradict_each_other_are_refused(command, tmp_path):
    shutil.copytree(CLIP_BENCHMARK, tmp_path / "cb")
    text = CLIP_BENCHMARK_TABLE.read_text()
    (tmp_path / "b.csv").write_text(text.replace("0.35,,", "0.375,,"))
    ended = command("leaderboard", "cb", "b.csv")
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("cosmos-eval: acc5 of openclip:tiny/data/tiny.pt on wds/imagenet1k is ")
    assert "0.35 in cb/imagenet1k" in line
    assert "0.375 in b.csv: keep one of the files" in line


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "a,b\n1,2\n",
            "a.csv: cannot be read as results of cosmos-eval, CLIP Benchmark, ",
        ),
        ("a.jsonl", '{"step": 1}', "a.jsonl: cannot be read as results of cosmos-eval, CLIP"),
        ("a.json", '{"model": "x", "task": "y"}', "a.json: not a result: it has no `schema_ver"),
        ("a.json", '{"dataset', "a.json: cannot be read as a result: "),
    ],
)
@pytest.mark.parametrize("arguments", [["leaderboard"], ["compare", "--model", "x"]])
def test_a_file_of_no_known_tool_is_refused(command, tmp_path, name, text, message, arguments):
    (tmp_path / name).write_text(text)
    ended = command(*arguments, name, *(["a"] if "compare" in arguments else []))
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert line.startswith(f"cosmos-eval: {message}")


def test_a_comparison_with_an_imported_result_shows_differences_only(command, measured):
    table = OPENCLIP / "openclip_results.csv"
    models = ["--model", "scenes-clip", "--model", H14]
    ended = command("compare", measured, table, *models)
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert lines[:3] == [
        "no verdict: a paired test needs samples, which imported results do not have",
        "A: scenes-clip",
        f"B: {H14}",
    ]
    assert lines[3].split() == ["metric", "A", "B", "A", "-", "B"]
    assert lines[5:] == ["wds/imagenet1k, datacomp", "  acc1  60.00  84.37  -24.37"]
    notes = ended.err.splitlines()
    assert "note: the settings of imported results are unknown: their images, prompts and" in (
        ended.err
    )
    only_b = [note for note in notes if note.startswith("note: not compared: only B has ")]
    assert len(only_b) == 1
    assert only_b[0].endswith(" and 17 more")  # of 37, of which 20 are named

    content = json.loads(command("compare", measured, table, *models, "--json").out)
    assert content["tests"] == []
    assert content["untested"] == [
        {
            **IMAGENET,
            "metric": "acc1",
            "a": OURS,
            "b": 0.8437,
            "difference": pytest.approx(OURS - 0.8437),
        }
    ]


def test_a_comparison_with_samples_has_no_such_differences(command, measured):
    models = ["--model", "scenes-clip", "--model", "scenes-cosmos"]
    content = json.loads(command("compare", measured, *models, "--json").out)
    assert "untested" not in content
    assert content["tests"]


def test_imported_models_are_compared_by_primary_metrics_or_all_others(command):
    b14 = "openclip:ViT-H-14-quickgelu/dfn5b"
    arguments = ["compare", OPENCLIP, "--model", H14, "--model", b14]
    shown = command(*arguments).out.splitlines()
    metrics = {line.split()[0] for line in shown if line.startswith("  ")}
    # The table has no primary metric of some tasks, such as accuracies of iWildCam.
    assert metrics == {
        *("acc1", "mean_per_class_recall", "f1_macro", "worst_group_acc1", "worst_group_acc5"),
        *("jaccard_10-12", "mean_recall@1"),
    }
    chosen = command(*arguments, "--metrics", "f1*").out.splitlines()
    metrics = {line.split()[0] for line in chosen if line.startswith("  ")}
    assert metrics == {"f1_macro"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tex"], "--format tex shows tests, and imported results have none"),
        (["--model", "scenes-clap"], "has no result of model 'scenes-clap'; nearest: scenes-clip"),
        (["--metrics", "acc9"], "no metric is called 'acc9'; nearest: acc1"),
    ],
)
def test_wrong_use_of_compare(command, measured, arguments, message):
    table = OPENCLIP / "openclip_results.csv"
    if "--model" not in arguments:
        arguments = ["--model", "scenes-clip", *arguments]
    ended = command("compare", measured, table, *arguments, "--model", H14)
    assert ended.status == 2
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1


def test_several_imported_models_must_be_named(command):
    ended = command("compare", OPENCLIP, DATACOMP)
    assert ended.status == 2
    assert "openclip has several models (openclip:" in ended.err


def test_an_edited_result_is_not_compared(command, measured):
    (path,) = measured.glob("scenes-clip__*.json")
    path.write_text(path.read_text().replace('"acc1": 0.6', '"acc1": 0.875'))
    ended = command("compare", path, OPENCLIP, "--model", "scenes-clip", "--model", H14)
    assert ended.status == 2
    assert "was edited after it was written" in ended.err


def test_nothing_is_drawn_of_differences_without_intervals(command, measured):
    ended = command(
        *("plot", "compare", measured, OPENCLIP, "--model", "scenes-clip", "--model", H14),
        *("--output", "f.svg"),
    )
    assert ended.status == 2
    assert "nothing to draw: imported results have no samples" in ended.err


def test_imported_results_are_never_verified(command):
    ended = command("verify", CLIP_BENCHMARK)
    assert ended.status == 2
    assert "verified, " not in ended.out


def test_python_reads_them_too(measured):
    table = OPENCLIP / "openclip_results.csv"
    with pytest.warns(UserWarning, match="not read: params"):
        frame = cosmos_eval.leaderboard(measured, table, datasets="wds/imagenet1k").frame
    assert sorted(frame["source"].unique()) == ["imported", "measured"]
    assert set(frame[frame["source"] == "imported"]["metric"]) == {"acc1"}
    comparison = cosmos_eval.compare(measured, table, models=["scenes-clip", H14])
    (row,) = comparison.frame.to_dict("records")
    assert (row["metric"], row["a"], row["b"]) == ("acc1", OURS, 0.8437)
    assert "-24.37" in comparison._repr_html_()
    assert any("not read: params" in note for note in comparison.notes)


def test_export_takes_the_format_from_its_option_or_the_suffix(command, measured):
    for arguments in (["--output", "t.csv"], ["--format", "csv", "--output", "t.txt"]):
        ended = command("export", measured, *arguments)
        assert (ended.status, ended.err) == (0, f"wrote {arguments[-1]}\n")
    assert command("leaderboard", measured, "t.csv").status == 2
    ended = command("export", measured, "--format", "datacomp", "--output", "d/eval_results.jsonl")
    assert ended.status == 2
    assert "d/eval_results.jsonl can hold one model, not scenes-clip, scenes-cosmos" in ended.err
    ended = command("export", measured, "--format", "csv", "--output", ".")
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)


def test_an_export_that_cannot_be_written_is_one_line(command, measured, tmp_path):
    (tmp_path / "file").write_text("")
    for name, output in (("clip-benchmark", "file"), ("datacomp", "file"), ("openclip", "file")):
        ended = command("export", measured, "--format", name, "--output", output)
        assert ended.status == 2
        (line,) = ended.err.splitlines()
        assert line.startswith("cosmos-eval: cannot write file/")


def test_all_names_here_are_names_here(command):
    listed = json.loads(command("list", "formats", "--json").out)
    assert len(listed) == len(name_rows())
    for row in name_rows():
        assert row["source"].startswith(("github.com/", "huggingface.co/"))
        if row["kind"] == "data set" and "*" not in row["here"]:
            assert find_known(row["here"], row["protocol"] or None)
        elif row["kind"] == "metric" and row["here"] not in ("", "mean_recall@1"):
            assert task_named(row["task"]).has_metric(row["here"].replace("*", "5"))


def test_names_of_metrics_of_groups_are_read_only_from_our_files(tmp_path):
    line = {"key": "fairness/geode", "dataset": "GeoDE", "metrics": {"acc1": 0.5, "acc1_x": 0.25}}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line))
    files = find_results([path])
    assert (files.imported[0].metrics, files.notes) == (
        {"acc1": 0.5},
        [f"{path}: not read: acc1_x"],
    )
    path.write_text(json.dumps(line | {"model": "m"}))
    files = find_results([path])
    assert (files.imported[0].metrics, files.notes) == (line["metrics"], [])


def test_a_place_without_any_number_is_refused(command, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "log.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "t.csv").write_text("name,pretrained,ImageNet 1k\nViT-B-32,openai,63.3\n")
    for place in ("folder", "t.csv"):
        ended = command("leaderboard", CLIP_BENCHMARK, place)
        assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
        assert place in ended.err


def test_a_cell_may_have_several_lines_and_a_line_any_letters(tmp_path):
    row = "a,wds/cars,m,p,zeroshot_classification,0.5"
    text = "classnames,dataset,model,pretrained,task,acc1\n" + row.replace("a,", '"a\nb",', 1)
    (tmp_path / "t.csv").write_text(text + "\n")
    line = {"key": "cars", "dataset": "\u2028", "metrics": {"acc1": 0.25}, "model": "x\u2028y"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
    results = find_results([tmp_path]).imported
    assert {result.model: result.metrics for result in results} == {
        "openclip:m/p": {"acc1": 0.5},
        "x\u2028y": {"acc1": 0.25},
    }


@pytest.mark.parametrize("value", ["Infinity", "1e400", "-0.5", "true", "[1]", '"good"'])
def test_an_impossible_value_is_named(tmp_path, value):
    path = tmp_path / "eval_results.jsonl"
    line = '{"key": "cars", "dataset": "Cars", "metrics": {"acc1": %s, "acc5": 0.5}}'
    path.write_text(line % value)
    files = find_results([path])
    assert files.imported[0].metrics == {"acc5": 0.5}
    assert files.notes[0].startswith(f"{path}: not read: acc1 (")


def test_a_missing_place_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no results \(\*\.json\) in .*nowhere"):
        find_results([tmp_path / "nowhere"])
