"""A repository of the hub at one commit: which files it holds, and these files in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from growtool.hub.names import Address
from growtool.hub.problems import asking, is_unreachable, refuse_unreachable
from growtool.hub.progress import bar_of, silent

# Small files that most repositories have: the first one there is fetched by the revision that was asked for, so that
# the cache remembers what commit this is.
_ANCHORS = ("config.json", "README.md", ".gitattributes")


@dataclass(frozen=True)
class Repository:
    """A repository at a commit.

    Attributes:
        text: what the user typed.
        address: which repository, and the revision that was asked for.
        commit: which that is.
        folder: its files in the cache, those that were fetched.
        files: all of its files; where the hub does not answer those that are in the cache.
        unreachable: why it does not answer; None where it did.
    """

    text: str
    address: Address
    commit: str
    folder: Path
    files: frozenset[str]
    unreachable: BaseException | None = None

    def fetch(self, file: str, *, shown: bool = False) -> Path:
        """A file of it in the cache, downloaded where it is not there yet.

        Args:
            file: its name.
            shown: as a download that takes its time.

        Raises:
            CheckpointError: it cannot be had.
        """
        if (self.folder / file).exists():
            return self.folder / file
        bar = bar_of(f"{file} of {self.name}") if shown else silent()
        return _download(self.text, self.address, file, self.commit, bar)

    def header(self, file: str) -> Any:
        """The header of a safetensors file as `huggingface_hub` reads it, without the file; see its documentation.

        Raises:
            CheckpointError: it cannot be had.
        """
        from huggingface_hub import HfApi

        with asking(self.address, self.text, file):
            return HfApi().parse_safetensors_file_metadata(self.name, file, revision=self.commit)

    def require_complete(self, what: str) -> None:
        """Raise CheckpointError where only the cache is known, and `what` is not in it."""
        if self.unreachable is not None:
            refuse_unreachable(self.unreachable, self.text, what)

    @property
    def name(self) -> str:
        """`org/name`."""
        return self.address.repository


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint comes from that was named.

    Attributes:
        text: what the user typed.
        pinned: the same with the commit as its revision.
        repository: `org/name`.
        commit: of it; None while nothing was asked of the hub.
        fetch: downloads the weights where they are not in the cache; their file.
    """

    text: str
    pinned: str
    repository: str
    commit: str | None
    fetch: Callable[[], Path] = field(repr=False, compare=False)

    @property
    def label(self) -> str:
        """A short name."""
        return self.repository.rpartition("/")[2]

    def to_json(self) -> Mapping[str, str | None]:
        """Plain data for `json.dumps`."""
        return {"repository": self.repository, "commit": self.commit}


def locate(address: Address, text: str) -> Repository:
    """The repository at the commit that its revision is now; where the hub does not answer, the one in the cache.

    Raises:
        CheckpointError: there is none.
    """
    from huggingface_hub import HfApi

    with asking(address, text, ""):
        try:
            info = HfApi().model_info(address.repository, revision=address.revision)
        except Exception as error:
            if is_unreachable(error):
                held = cached(address, text) or refuse_unreachable(error, text, "")
                return replace(held, unreachable=error)
            raise
    commit, files = str(info.sha), frozenset(sibling.rfilename for sibling in info.siblings or ())
    anchor = next((file for file in _ANCHORS if file in files), None)
    if anchor is not None and address.revision != commit:
        commit = _download(text, address, anchor, address.revision, silent()).parent.name
    return Repository(text, address, commit, snapshot(address.repository, commit), files)


def cached(address: Address, text: str) -> Repository | None:
    """The same as far as it is in the cache; None where it is not."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    refs = snapshot(address.repository, "").parent / "refs"
    named = refs / (address.revision or constants.DEFAULT_REVISION)
    try:
        commit = named.read_text().strip() if named.is_file() else address.revision or ""
        folder = snapshot(address.repository, commit)
    except HFValidationError:
        return None
    if not commit or not folder.is_dir():
        return None
    files = frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Repository(text, address, commit, folder, files)


def snapshot(repository: str, commit: str) -> Path:
    """Where the cache has, or will have, the files of a repository at a commit."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "snapshots" / commit


def _download(text: str, address: Address, file: str, revision: str | None, bar: type[Any] | None) -> Path:
    from huggingface_hub import hf_hub_download

    with asking(address, text, file):
        return Path(hf_hub_download(address.repository, file, revision=revision, tqdm_class=bar))
