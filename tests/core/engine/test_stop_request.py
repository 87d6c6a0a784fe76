"""When a signal ends a wait, when it is only noted, and when it interrupts."""

import os
import signal

import pytest
from support.training import SINGLE_PROCESS

from cosmos_core.engine.trainer import StopRequest, StopWaiting


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_a_wait_and_a_second_one_interrupts(number):
    former = signal.getsignal(number)
    with StopRequest(SINGLE_PROCESS) as stop:
        with pytest.raises(StopWaiting), stop.interrupting():
            os.kill(os.getpid(), number)
        assert stop.agreed()
        with pytest.raises(StopWaiting), stop.interrupting():
            pytest.fail("a run that is to stop does not wait again")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is former


def test_a_signal_outside_a_wait_is_noted():
    with StopRequest(SINGLE_PROCESS) as stop:
        with stop.interrupting():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
