"""Class names that the published code has wrong: which protocols keep them; tables say so."""

import pytest
from typer.testing import CliRunner

from cosmos_eval.cli.app import app
from cosmos_eval.protocols import published_error


@pytest.mark.parametrize(
    ("dataset", "error"),
    [
        ("coco_stuff", "trafficlight"),
        ("voc21", "pottedplant"),
        ("coco_object", "bed"),  # a class of its own and a prompt of the background
        ("oxford_pets", "Persian'"),
        ("imagenet1k", None),
        ("scenes-seg", None),
        ("coco-karpathy", None),
    ],
)
def test_the_published_errors_are_those_of_one_family(dataset, error):
    assert published_error(dataset, "cosmos") == error
    assert published_error(dataset, "fixed-names") is None
    assert published_error(dataset, "clip-benchmark") is None


def test_a_table_names_the_sets_with_errors():
    words = ["leaderboard", "results", "--published", "--format", "md", "--datasets", "coco_stuff"]
    done = CliRunner().invoke(app, [*words, "--protocols", "cosmos"])
    assert "coco\\_stuff (trafficlight)" in done.output.replace("coco_stuff", "coco\\_stuff")
