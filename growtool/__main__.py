"""The process of a command: what the console script runs, `python -m growtool`, and `torchrun -m growtool finetune`."""

from __future__ import annotations

import atexit
import os
import sys

_status = 1  # of the process, as Python gives it to one that ends with an exception


def run() -> None:
    """Run the command; what it holds when it is done is the system's to free, which takes Python a second."""
    global _status
    atexit.register(_leave)  # called last, as it is the first
    from growtool.cli.app import main

    try:
        main()
        _status = 0
    except SystemExit as ended:
        _status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


def _leave() -> None:
    """End now, unless what was printed did not reach its reader: Python then tells of it as ever."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return
    os._exit(_status)


if __name__ == "__main__":
    run()
