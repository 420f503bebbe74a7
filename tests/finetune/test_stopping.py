"""SIGTERM and Ctrl-C as a request."""

import os
import signal

import pytest

from growtool.finetune.stopping import ENDING, Stopped, leave_interrupts, stop_on_signals


@pytest.fixture(autouse=True)
def interruptible():
    """As in a terminal; what runs in the background may have been told to ignore Ctrl-C, and by nohup its end."""
    at_ease = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in at_ease.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)]
)
def test_a_run_ends_as_a_shell_reports_the_signal(number, code):
    with stop_on_signals() as request:
        os.kill(os.getpid(), number)
    assert request.asked and Stopped(3, "there", request, line="").code == code


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_what_is_ignored_stays_ignored(number):
    """`nohup` ignores SIGHUP, a shell Ctrl-C in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signals() as request:
            os.kill(os.getpid(), number)
        assert not request.asked and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_process_that_reads_images_leaves_signals_to_the_main_one():
    before = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGINT)}
    try:
        leave_interrupts(0)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)])
def test_a_command_that_grows_clears_its_output_away(number, code, monkeypatch, growtool, resnet_folder, tmp_path):
    """The signal comes while the grown weights are being written."""
    (tmp_path / "plan.yaml").write_text("target: {scale: {width: 2}}\nwidth: {operator: tile}\n")
    handlers = {found: signal.getsignal(found) for found in ENDING}
    monkeypatch.setattr("growtool.checkpoint.folder.sync_folder", lambda *_: os.kill(os.getpid(), number))
    try:
        assert growtool("grow", resnet_folder, tmp_path / "plan.yaml", "-o", tmp_path / "out")[0] == code
    finally:
        for found, handler in handlers.items():
            signal.signal(found, handler)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.yaml", resnet_folder.name]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_the_command_leaves_ignored_what_it_was_started_with_ignored(number, growtool):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        growtool("--version")
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_what_was_asked_before_a_part_begins_is_asked_of_the_part():
    with stop_on_signals() as whole:
        os.kill(os.getpid(), signal.SIGINT)
        with stop_on_signals() as part:
            assert part.asked
    assert whole.signal == signal.SIGINT
