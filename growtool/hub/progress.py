"""How downloads are shown: as `huggingface_hub` does by itself, or as the command shows its own progress."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

from growtool.notebook import Show

_show: Show | None = None


def shown_by(show: Show | None) -> None:
    """Show the downloads of this process by `show`; by the bars of `huggingface_hub` where it is None."""
    global _show
    _show = show


def bar_of(what: str) -> type | None:
    """What `huggingface_hub` is to take for a progress bar of a download of `what`; None for its own."""
    return None if _show is None else _bar(_show, what)


def silent() -> type:
    """The same for a download that is not shown."""
    return _bar(lambda what, size: nullcontext(lambda count: None), "")


def _bar(show: Show, what: str) -> type:

    class Bar:
        """As much of tqdm as downloads call."""

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
            """Bytes on the network; those on disk are shown."""

        def set_postfix_str(self, text: str, refresh: bool = True) -> None:
            """The rate of bytes."""

        def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None:
            """The same of those on the network."""

    return Bar
