"""Repositories of the hub at one commit: the files that they hold, and the cache of `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from growtool.hub.names import Address
from growtool.hub.problems import asking, is_unreachable, refuse_unreachable
from growtool.hub.progress import bar_of, silent

# Small files that most repositories have. The first one that is there is fetched by the revision that was asked for, as
# `huggingface_hub` notes the commit of a branch or tag in its cache only with a download. `cached` reads it offline.
_ANCHORS = ("config.json", "README.md", ".gitattributes")


@dataclass(frozen=True)
class Repository:
    """A repository at a commit.

    Attributes:
        address: the repository, and the revision that was asked for.
        commit: the commit of that revision.
        folder: the folder of the cache for this commit, with the files that were fetched.
        files: names of all of its files; only of those in the cache if the hub does not answer.
        unreachable: the error if the hub does not answer; None if it does.
    """

    address: Address
    commit: str
    folder: Path
    files: frozenset[str]
    unreachable: BaseException | None = None

    def fetch(self, file: str, *, shown: bool = False) -> Path:
        """Return the path of a file in the cache, after downloading it if it is not there.

        Args:
            file: the file's name in the repository.
            shown: whether to show the progress of the download, for files that take long.

        Raises:
            CheckpointError: the file cannot be downloaded.
        """
        if (self.folder / file).exists():
            return self.folder / file
        bar = bar_of(f"{file} of {self.name}") if shown else silent()
        return _download(self.address, file, self.commit, bar)

    def header(self, file: str) -> Any:
        """Return the header of a safetensors file, a `SafetensorsFileMetadata`, without downloading the file.

        Raises:
            CheckpointError: the header cannot be fetched.
        """
        from huggingface_hub import HfApi

        with asking(self.address, file):
            return HfApi().parse_safetensors_file_metadata(self.name, file, revision=self.commit)

    def require_complete(self, what: str) -> None:
        """Check that `files` is complete; raise CheckpointError that `what` is not in the cache if it is not."""
        if self.unreachable is not None:
            refuse_unreachable(self.unreachable, self.address, what)

    @property
    def name(self) -> str:
        """Return `org/name`."""
        return self.address.repository

    def origin(self, pinned: str, fetch: Callable[[], Path]) -> Origin:
        """Return the origin of a checkpoint of this repository; see there for the arguments."""
        return Origin(self.address.text, pinned, self.name, self.commit, fetch)


@dataclass(frozen=True)
class Origin:
    """The place that a checkpoint comes from, if it was named rather than found on disk.

    Attributes:
        text: what the user typed.
        pinned: the same name with the commit as its revision.
        repository: `org/name`.
        commit: the commit; None as long as the hub was not asked.
        fetch: returns the file of the weights, after downloading it if it is not in the cache.
    """

    text: str
    pinned: str
    repository: str
    commit: str | None
    fetch: Callable[[], Path] = field(repr=False, compare=False)

    @property
    def label(self) -> str:
        """Return the name without the organisation."""
        return self.repository.rpartition("/")[2]

    def to_json(self) -> Mapping[str, str | None]:
        """Return plain data for `json.dumps`."""
        return {"repository": self.repository, "commit": self.commit}


def locate(address: Address) -> Repository:
    """Return a repository at the commit that its revision is at now, by the cache if the hub does not answer.

    Raises:
        CheckpointError: there is no such repository or revision, or the hub does not answer and the cache has none.
    """
    from huggingface_hub import HfApi

    with asking(address, ""):
        try:
            info = HfApi().model_info(address.repository, revision=address.revision)
        except Exception as error:
            if is_unreachable(error):
                in_cache = cached(address) or refuse_unreachable(error, address, "")
                return replace(in_cache, unreachable=error)
            raise
    commit, files = str(info.sha), frozenset(sibling.rfilename for sibling in info.siblings or ())
    anchor = next((file for file in _ANCHORS if file in files), None)
    if anchor is not None and address.revision != commit:
        # The folder of a file at the top is named after the commit: that of the download counts, if one came between.
        commit = _download(address, anchor, address.revision, silent()).parent.name
    return Repository(address, commit, snapshot(address.repository, commit), files)


def cached(address: Address) -> Repository | None:
    """Return a repository with the files that the cache has of it; None if it has none.

    `huggingface_hub` keeps the commit of a branch or tag in `refs/REVISION`, and files in `snapshots/COMMIT`.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    refs = snapshot(address.repository, "").parent / "refs"
    ref = refs / (address.revision or constants.DEFAULT_REVISION)
    try:
        commit = ref.read_text().strip() if ref.is_file() else address.revision or ""
        folder = snapshot(address.repository, commit)
    except HFValidationError:
        return None
    if not commit or not folder.is_dir():
        return None
    files = frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Repository(address, commit, folder, files)


def snapshot(repository: str, commit: str) -> Path:
    """Return the folder in which the cache has, or will have, the files of a repository at a commit."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "snapshots" / commit


def _download(address: Address, file: str, revision: str | None, bar: type[Any] | None) -> Path:
    from huggingface_hub import hf_hub_download

    with asking(address, file):
        return Path(hf_hub_download(address.repository, file, revision=revision, tqdm_class=bar))
