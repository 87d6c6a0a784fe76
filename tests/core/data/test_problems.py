"""Counting bad samples: what is logged, when a run stops, what a snapshot keeps."""

import json
import logging

import pytest

from cosmos_core.data.samples import Problem, ProblemCounter, UnreadableDataError


def problems(count, kind="image_broken"):
    return [Problem(kind, f"{number:03d}", "a.tar: broken") for number in range(count)]


def test_a_run_stops_above_the_limit_and_not_at_it():
    counter = ProblemCounter(0.05, minimum=100)
    counter.add(problems(5), seen=95)
    with pytest.raises(UnreadableDataError, match=r"^6 of 101 samples could not be read \(5.9%\)"):
        counter.add(problems(1), seen=0)
    assert counter.bad == 6


def test_the_verdict_names_the_commonest_kind_and_an_example():
    counter = ProblemCounter(0.05, minimum=10)
    mixed = [*problems(2), *problems(3, "record_missing")]
    with pytest.raises(
        UnreadableDataError, match=r"data.max_bad=0.05 allows; most often record_missing, as in 002"
    ):
        counter.add(mixed, seen=5)


def test_no_run_stops_before_enough_samples_are_seen():
    counter = ProblemCounter(0.05, minimum=100)
    counter.add(problems(50), seen=49)
    with pytest.raises(UnreadableDataError):
        counter.add([], seen=1)


def test_few_of_a_kind_are_logged(caplog):
    counter = ProblemCounter(1.0)
    with caplog.at_level(logging.WARNING):
        for problem in problems(100):
            counter.add([problem], seen=1)
        counter.add(problems(1, "truncated"), seen=1)
    logged = [record.getMessage() for record in caplog.records]
    # The first three, and the 4th, 8th, 16th, 32nd and 64th.
    keys = [message.split()[2].rstrip(":") for message in logged]
    assert keys == ["000", "001", "002", "003", "007", "015", "031", "063", "000"]
    assert logged[0] == "bad sample 000: image_broken: a.tar: broken"
    assert logged[4].endswith("(8 of this kind so far)")
    assert "truncated" in logged[-1]


def test_counts_go_on_from_a_snapshot():
    first = ProblemCounter(0.1, minimum=100)
    first.add(problems(9), seen=91)
    state = json.loads(json.dumps(first.state()))
    second = ProblemCounter(0.1, minimum=100)
    second.load(state)
    assert second.bad == 9
    assert second.state() == first.state()
    with pytest.raises(UnreadableDataError, match="11 of 102"):
        second.add(problems(2), seen=0)


def test_the_problems_of_all_processes_can_be_counted_in_each():
    one, other = problems(4), problems(8)
    counter = ProblemCounter(0.1, minimum=100)
    with pytest.raises(UnreadableDataError, match="12 of 112"):
        counter.add([*one, *other], seen=100)
