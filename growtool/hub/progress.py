"""The progress of downloads, shown by the bars of `huggingface_hub` or by those of the command."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

from growtool.notebook import Show

_show: Show | None = None


def shown_by(show: Show | None) -> None:
    """Show the downloads of this process by `show`, or by the bars of `huggingface_hub` if it is None."""
    global _show
    _show = show


def bar_of(what: str) -> type | None:
    """Return the class of progress bars for a download of `what`; None for that of `huggingface_hub`."""
    return None if _show is None else _bar(_show, what)


def silent() -> type:
    """Return a class of progress bars that show nothing."""
    return _bar(lambda what, size: nullcontext(lambda count: None), "")


def _bar(show: Show, what: str) -> type:
    """Return a class of progress bars for `tqdm_class` of `huggingface_hub`, which makes the bar itself."""

    class Bar:
        """The part of tqdm that downloads of `huggingface_hub` call."""

        def __init__(self, *, total: int | None = None, initial: int = 0, **told: Any) -> None:
            self.total, self.n = total, initial
            self._stack = ExitStack()
            self._advance = self._stack.enter_context(show(what, total or 0))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

        def update(self, count: float = 1) -> None:
            self.n += int(count)
            self._advance(int(count))

        def close(self) -> None:
            self._stack.close()

        def update_transfer(self, count: float = 1) -> None:
            """Do nothing: it counts bytes on the network, `update` those of the file."""

        def set_postfix_str(self, text: str, refresh: bool = True) -> None:
            """Do nothing: the bar shows its own rate."""

        def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None:
            """Do nothing, likewise."""

    return Bar
