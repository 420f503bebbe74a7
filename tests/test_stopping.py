"""SIGTERM and Ctrl-C as a request."""

import os
import signal

import pytest

from growtool.finetune.stopping import Stopped, stop_on_signals


@pytest.fixture(autouse=True)
def interruptible():
    """As in a terminal; what runs in the background may have been told to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_asked_within_is_asked_of_the_whole():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as whole:
        with stop_on_signals() as part:
            os.kill(os.getpid(), signal.SIGTERM)
        assert part.asked and whole.asked
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_a_signal_nothing_is_asked():
    with stop_on_signals() as whole, stop_on_signals() as part:
        pass
    assert not whole.asked and not part.asked


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_ends_as_a_shell_reports_the_signal(number, code):
    with stop_on_signals() as request:
        os.kill(os.getpid(), number)
    assert request.asked and Stopped(3, "there", request).code == code


def test_a_second_interrupt_ends_at_once():
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_handed_on_by_a_launcher_is_the_same_request():
    with stop_on_signals(patient=True) as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert request.asked


def test_what_ignores_interrupts_goes_on_doing_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as request:
            os.kill(os.getpid(), signal.SIGINT)
        assert not request.asked and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
