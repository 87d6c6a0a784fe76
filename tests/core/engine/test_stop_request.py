"""When a signal ends a wait, when it is only noted, and when it interrupts."""

import dataclasses
import os
import signal

import pytest
from support.training import SINGLE_PROCESS

from cosmos_core.engine import stop as stop_module
from cosmos_core.engine.stop import StopRequest, StopWaiting


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_ends_a_wait(number):
    former = signal.getsignal(number)
    with StopRequest(SINGLE_PROCESS) as stop:
        with pytest.raises(StopWaiting), stop.interrupting():
            os.kill(os.getpid(), number)
        assert stop.agreed()
        with pytest.raises(StopWaiting), stop.interrupting():
            pytest.fail("a run that is to stop does not wait again")
    assert signal.getsignal(number) is former


def test_a_second_interrupt_interrupts_and_sigterm_never_does():
    with StopRequest(SINGLE_PROCESS):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_that_torchrun_repeats_counts_once(monkeypatch):
    world = dataclasses.replace(SINGLE_PROCESS, world_size=2)
    with StopRequest(world):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(stop_module, "REPEAT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_outside_a_wait_is_noted():
    with StopRequest(SINGLE_PROCESS) as stop:
        with stop.interrupting():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
