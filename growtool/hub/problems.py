"""Errors of `huggingface_hub` as errors of growtool, whose messages say what to do."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from growtool.errors import CheckpointError, GrowtoolError
from growtool.hub.names import Address

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

# Packages whose exceptions say that a server did not answer; `huggingface_hub` does not wrap all of them.
_TRANSPORTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)  # the cache is full, or cannot be written


@contextmanager
def asking(address: Address, what: str) -> Iterator[None]:
    """While open, turn errors of `huggingface_hub` into CheckpointErrors, and drop its log.

    Args:
        address: the repository.
        what: the file that is asked for, or "" for the repository itself.

    Raises:
        CheckpointError: the hub refuses, does not answer, or breaks off.
        OSError: the disk is full, or cannot be written.
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except GrowtoolError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        raise CheckpointError(_message(error, address, what)) from error
    finally:
        logger.setLevel(level)


def is_unreachable(error: BaseException) -> bool:
    """Return whether an error says that the hub does not answer or is down, so that the cache has to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return _status(error) in (408, 429, 500, 502, 503, 504)
    of_transport = any(kind.__module__.split(".")[0] in _TRANSPORTS for kind in type(error).__mro__)
    return of_transport or isinstance(error, OfflineModeIsEnabled | ConnectionError | TimeoutError)


def refuse_unreachable(error: BaseException, address: Address, what: str) -> NoReturn:
    """Raise the CheckpointError for a hub that does not answer, if the cache does not hold `what`."""
    raise CheckpointError(_unreachable(error, address, what)) from error


def _unreachable(error: BaseException, address: Address, what: str) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    what = what or "the checkpoint"
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{address.text}: found HF_HUB_OFFLINE set, and {what} is not in the cache {constants.HF_HUB_CACHE}; "
            "expected it there; unset HF_HUB_OFFLINE, or set HF_HUB_CACHE to a cache that has it"
        )
    return (
        f"{address.text}: found no answer from {constants.ENDPOINT} ({_short(error)}), and {what} is not in the cache "
        f"{constants.HF_HUB_CACHE}; expected one of them; check the network (HF_ENDPOINT names a mirror), or name a "
        "folder"
    )


def _message(error: Exception, address: Address, what: str) -> str:
    """Return what to say of an error of `huggingface_hub`; see `asking` for the arguments."""
    from huggingface_hub import constants, errors

    text, name, server = address.text, address.repository, constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{text}: found a gated repository, expected one that may be read; ask for access at {server}/{name}, then "
            "log in with `hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{text}: found no revision {address.revision!r}, expected a branch, a tag or a commit of {name}"
            f"{_revisions(address)}"
        )
    # The hub does not say whether a repository is private or not there.
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError) or (
        isinstance(error, errors.HfHubHTTPError) and not what and _status(error) in (401, 403, 404)
    ):
        return (
            f"{text}: found no repository {name!r} at {server}, expected one{_near(address)}; correct the name, or, "
            "where it is private, log in with `hf auth login` or set HF_TOKEN; a folder of this name is not there "
            "either"
        )
    if isinstance(error, errors.SafetensorsParsingError):
        return f"{text}: {what}: not a safetensors file ({_short(error)}); name another revision or repository"
    if what and _broke_off(error):
        return (
            f"{text}: {what}: the download was interrupted ({_short(error)}), expected the whole file; run the same "
            "command again"
        )
    # `hf_hub_download` raises LocalEntryNotFoundError from whatever kept it from the network.
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    if is_unreachable(cause):
        return _unreachable(cause, address, what)
    return (
        f"{text}: found an error of {server} ({_short(cause)}), expected {what or 'the repository'}; try it again later"
    )


def _broke_off(error: Exception) -> bool:
    """Return whether a download broke off after it had begun, rather than never began."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled):
        return False
    return isinstance(error, OSError) or is_unreachable(error)


def _near(address: Address) -> str:
    """Return a hint at repositories of the same owner with similar names; empty if there are none."""
    from huggingface_hub import HfApi

    from growtool.errors import did_you_mean

    owner = address.repository.rpartition("/")[0]
    try:
        known = [found.id for found in HfApi().list_models(author=owner, limit=2000)] if owner else []
    except Exception:  # an error is being told already, to which this only adds
        known = []
    return did_you_mean(address.repository, known, count=3)


def _revisions(address: Address) -> str:
    """Return the end of a message about an unknown revision, with those that there are."""
    from huggingface_hub import HfApi

    from growtool.errors import format_names

    try:
        refs = HfApi().list_repo_refs(address.repository)
        known = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # as in `_near`
        known = []
    return f"; it has {format_names(known)}" if known else "; correct it"


def _status(error: HfHubHTTPError) -> int:
    """Return the status code of a server's answer; 0 if there was none."""
    return int(getattr(error.response, "status_code", 0))


def _short(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
