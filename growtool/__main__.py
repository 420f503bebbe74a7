"""The entry point of the console script, of `python -m growtool`, and of `torchrun -m growtool finetune`."""

from __future__ import annotations

import atexit
import os
import sys

_status = 1  # exit status of the process; 1 is also Python's for one that ends with a traceback


def run() -> None:
    """Run the command, then end the process without freeing its memory, which would take Python about a second."""
    global _status
    # atexit calls functions in reverse order: the first to be registered runs last, after all others have cleaned up.
    atexit.register(_leave)
    from growtool.cli.app import main

    try:
        main()
        _status = 0
    except SystemExit as ended:
        # as Python has it: no code is 0, a text is 1
        _status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


def _leave() -> None:
    """End the process at once; but leave it to Python to end it, and to report the error, if the output is lost."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return
    os._exit(_status)


if __name__ == "__main__":
    run()
