"""SIGTERM as a request."""

import os
import signal

from growtool.finetune.stopping import stop_on_sigterm


def test_what_is_asked_within_is_asked_of_the_whole():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_sigterm() as whole:
        with stop_on_sigterm() as part:
            os.kill(os.getpid(), signal.SIGTERM)
        assert part.asked and whole.asked
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_a_signal_nothing_is_asked():
    with stop_on_sigterm() as whole, stop_on_sigterm() as part:
        pass
    assert not whole.asked and not part.asked
