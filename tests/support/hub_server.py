"""A server on the loopback address that speaks the protocol of the Hugging Face hub, as far as models are read."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_of_tests"
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|refs)(?:/(?P<revision>.+))?)?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Repo:
    """A repository: files by name, commit by commit, and what its branches and tags name."""

    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files; its hash."""
        told = json.dumps([sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()), branch])
        sha = hashlib.sha1(f"{len(self.commits)}{told}".encode()).hexdigest()
        self.commits[sha], self.refs[branch] = dict(files), sha
        return sha


@dataclass
class Hub:
    """What the server has, what it was asked, and how it fails.

    Attributes:
        url: of the server.
        repos: by `org/name`.
        asked: method, path and range of each request.
        breaks_after: bytes of a file after which the connection ends; None sends all.
        status: answered to everything, where it is not None.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    breaks_after: int | None = None
    status: int | None = None

    def add(self, name: str, folder: Path | Mapping[str, bytes], *, gated: bool = False, branch: str = "main") -> str:
        """Add a commit with the files of a folder to the repository `name`; its hash."""
        repo = self.repos.setdefault(name, Repo())
        repo.gated = gated
        files = folder
        if isinstance(folder, Path):
            paths = [path for path in folder.rglob("*") if path.is_file()]
            files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        return repo.commit(files, branch)

    def environment(self, cache: Path, *, offline: bool = False) -> dict[str, str]:
        """For a process that is to use this hub, and a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache.parent / "home"),
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "",
            "no_proxy": "*",
        }

    def downloads(self, ending: str = ".safetensors") -> list[str]:
        """The paths of the files that were sent as a whole."""
        return [path for method, path, part in self.asked if method == "GET" and not part and path.endswith(ending)]


def ask(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, *, offline: bool = False) -> None:
    """Let this process, and those it begins, ask `hub`; `huggingface_hub` read the environment when it was imported."""
    from huggingface_hub import constants

    files = "/{repo_id}/resolve/{revision}/{filename}"
    told = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.url}{files}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": offline,
    }
    for name, value in told.items():
        monkeypatch.setattr(constants, name, value)
    for name, text in hub.environment(cache, offline=offline).items():  # of processes to come
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the context is open."""
    hub = Hub()

    class Bound(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Nothing is logged."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.served.asked.append((self.command, path, self.headers.get("Range", "")))
        if self.served.status is not None:
            return self._refuse(self.served.status, "")
        if path == "/api/models":
            owner = parse_qs(url.query).get("author", [""])[0]
            return self._json([{"id": name} for name in self.served.repos if name.startswith(f"{owner}/")])
        found = _API.fullmatch(path) or _FILE.fullmatch(path)
        if found is None:
            return self._refuse(404, "")
        repo = self.served.repos.get(found["repo"])
        if repo is None:
            return self._refuse(404, "RepoNotFound")
        is_api = path.startswith("/api/")
        if repo.gated and not is_api and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "GatedRepo")
        if is_api and found["what"] == "refs":
            branches = [{"name": name, "ref": name, "targetCommit": sha} for name, sha in repo.refs.items()]
            return self._json({"branches": branches, "tags": [], "converts": []})
        commit = repo.refs.get(found["revision"] or "main", found["revision"])
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        files = repo.commits[commit]
        if is_api:
            return self._json({"id": found["repo"], "sha": commit, "siblings": [{"rfilename": f} for f in files]})
        if found["file"] not in files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        return self._send(files[found["file"]], commit)

    def _json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": len(data)})
        self.wfile.write(data)

    def _refuse(self, status: int, code: str, more: Mapping[str, object] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": f"{code} by the server of tests"} if code else {}
        self._head(status, {**told, **(more or {}), "Content-Length": 0})

    def _send(self, data: bytes, commit: str) -> None:
        etag, begin, end = f'"{hashlib.sha256(data).hexdigest()}"', 0, len(data)
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        told: dict[str, object] = {"ETag": etag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        told |= {"X-Linked-ETag": etag, "X-Linked-Size": len(data)}
        if part:
            begin, end = int(part[1]), min(len(data), int(part[2]) + 1) if part[2] else len(data)
            told["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        self._head(206 if part else 200, {**told, "Content-Length": end - begin})
        if self.command == "HEAD":
            return
        limit = self.served.breaks_after
        self.wfile.write(data[begin:end] if limit is None else data[begin : min(end, limit)])
        if limit is not None and limit < end:
            self.close_connection = True

    def _head(self, status: int, headers: Mapping[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
