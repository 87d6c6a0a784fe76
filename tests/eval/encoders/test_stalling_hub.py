"""Hubs that accept requests and never answer, hardly send, or never end: a command ends with one
line, by short time-outs of the client here."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
from support.fuzzing import run_command
from support.hub import Delay, stalling

import cosmos_core.utils.hub

COMMANDS = {
    "data set": ("--dataset", "wds/cifar10", "--download", "--model", "scenes-clip"),
    "streamed": ("--dataset", "wds/cifar10", "--download", "--stream", "--model", "scenes-clip"),
    "released model": ("--dataset", "scenes-cls", "--model", "cosmos:vitb16_cc3m"),
    "transformers": ("--dataset", "scenes-cls", "--model", "hf:made/model"),
    "OpenCLIP": ("--dataset", "scenes-cls", "--model", "openclip:hf-hub:made/model"),
}
EXPECTED: dict[Delay, str] = {
    "silent": "failed (",
    "slow headers": "is too slow: it sent no more than ",
    "slow body": "is too slow: it sent no more than ",
    "endless": "is too slow: an answer of unknown size has not ended within 1 seconds",
}


@pytest.fixture
def short_limits(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs of half a second, and an empty cache of the client."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(cosmos_core.utils.hub, "UNKNOWN_SIZE_TIMEOUTS", 2)
    monkeypatch.setattr(cosmos_core.utils.hub, "WINDOW_TIMEOUTS", 1)


def line_of(command: str, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the line by which a run ends, with status 2, within a minute."""
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + path)
    arguments = ["run", *COMMANDS[command], "--output", str(folder / "out"), "--device", "cpu"]
    outcome = run_command(arguments, folder)
    assert outcome.status == 2, outcome
    (line,) = (text for text in outcome.err.splitlines() if text.startswith("cosmos-eval: "))
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_silent_hub(command, short_limits, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    with stalling("silent", 0.1) as url:
        assert EXPECTED["silent"] in line_of(command, url, tmp_path, monkeypatch)


@pytest.mark.parametrize("delay", [delay for delay in EXPECTED if delay != "silent"])
def test_a_slow_or_endless_answer(delay, short_limits, tmp_path, monkeypatch):
    with stalling(delay, 0.01) as url:
        line = line_of("data set", url, tmp_path, monkeypatch)
    assert EXPECTED[delay] in line
    assert "HF_HUB_DOWNLOAD_TIMEOUT" in line


def test_limits_outlast_a_new_client(short_limits):
    """The hub's client makes another session after some errors."""
    cosmos_core.utils.hub.limit_waiting()
    for _ in range(2):
        session = huggingface_hub.get_session()
        backend = session._transport._pool._network_backend
        assert isinstance(backend, cosmos_core.utils.hub._LimitedNetwork)
        huggingface_hub.close_session()
    cosmos_core.utils.hub.limit_waiting()
    backend = huggingface_hub.get_session()._transport._pool._network_backend
    assert not isinstance(backend._backend, cosmos_core.utils.hub._LimitedNetwork)
