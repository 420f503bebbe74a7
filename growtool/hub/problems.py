"""What can go wrong between growtool and the hub, each as one message that says what to do."""

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

_TRANSPORTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


@contextmanager
def asking(address: Address, text: str, what: str) -> Iterator[None]:
    """Tell errors of `huggingface_hub` as ours; its log is silent.

    Args:
        address: of the repository.
        text: what the user typed.
        what: is asked for, `config.json` or the like; "" for the repository itself.

    Raises:
        CheckpointError: with what was found, expected, and what to do.
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
        _tell(error, address, text, what)
    finally:
        logger.setLevel(level)


def is_unreachable(error: BaseException) -> bool:
    """Whether the hub did not answer, or is down: what is in the cache may do then."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return _status(error) in (408, 429, 500, 502, 503, 504)
    of_transport = any(kind.__module__.split(".")[0] in _TRANSPORTS for kind in type(error).__mro__)
    return of_transport or isinstance(error, OfflineModeIsEnabled | ConnectionError | TimeoutError)


def refuse_unreachable(error: BaseException, text: str, what: str) -> NoReturn:
    """Raise what is to be told where the hub does not answer and the cache does not hold what is asked for."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    what = what or "the checkpoint"
    if isinstance(error, OfflineModeIsEnabled):
        raise CheckpointError(
            f"{text}: found HF_HUB_OFFLINE set, and {what} is not in the cache {constants.HF_HUB_CACHE}; expected it "
            "there; unset HF_HUB_OFFLINE, or set HF_HUB_CACHE to a cache that has it"
        ) from error
    raise CheckpointError(
        f"{text}: found no answer from {constants.ENDPOINT} ({_short(error)}), and {what} is not in the cache "
        f"{constants.HF_HUB_CACHE}; expected one of them; check the network (HF_ENDPOINT names a mirror), or name a "
        "folder"
    ) from error


def _tell(error: Exception, address: Address, text: str, what: str) -> NoReturn:
    from huggingface_hub import constants, errors

    name, server = address.repository, constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        raise CheckpointError(
            f"{text}: found a gated repository, expected one that may be read; ask for access at {server}/{name}, then "
            "log in with `hf auth login`, or set HF_TOKEN"
        ) from error
    if isinstance(error, errors.RevisionNotFoundError):
        raise CheckpointError(
            f"{text}: found no revision {address.revision!r}, expected a branch, a tag or a commit of {name}"
            f"{_revisions(address)}"
        ) from error
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError) or (
        isinstance(error, errors.HfHubHTTPError) and not what and _status(error) in (401, 403, 404)
    ):
        raise CheckpointError(
            f"{text}: found no repository {name!r} at {server}, expected one{_near(address)}; correct the name, or, "
            "where it is private, log in with `hf auth login` or set HF_TOKEN; a folder of this name is not there "
            "either"
        ) from error
    if isinstance(error, OSError) and error.errno in _DISK:
        raise error
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    if isinstance(error, errors.SafetensorsParsingError):
        raise CheckpointError(
            f"{text}: {what}: not a safetensors file ({_short(error)}); name another revision or repository"
        ) from error
    if what and _broke_off(error):
        raise CheckpointError(
            f"{text}: {what}: the download was interrupted ({_short(error)}), expected the whole file; run the same "
            "command again"
        ) from error
    if is_unreachable(cause):
        refuse_unreachable(cause, text, what)
    raise CheckpointError(
        f"{text}: found an error of {server} ({_short(cause)}), expected {what or 'the repository'}; try it again later"
    ) from error


def _broke_off(error: Exception) -> bool:
    """Whether a file was on its way, rather than not to be had."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled):
        return False
    return isinstance(error, OSError) or is_unreachable(error)


def _near(address: Address) -> str:
    """The repositories of the same owner whose names are near."""
    from huggingface_hub import HfApi

    from growtool.errors import did_you_mean

    owner = address.repository.rpartition("/")[0]
    try:
        known = [found.id for found in HfApi().list_models(author=owner, limit=2000)] if owner else []
    except Exception:  # it is an error already; this only adds to it
        known = []
    return did_you_mean(address.repository, known, count=3)


def _revisions(address: Address) -> str:
    from huggingface_hub import HfApi

    from growtool.errors import format_names

    try:
        refs = HfApi().list_repo_refs(address.repository)
        known = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # the same
        known = []
    return f"; it has {format_names(known)}" if known else "; correct it"


def _status(error: HfHubHTTPError) -> int:
    """The number of an answer of a server, 0 where there was none."""
    return int(getattr(error.response, "status_code", 0))


def _short(error: BaseException) -> str:
    """The first line of what an error says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
