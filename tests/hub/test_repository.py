"""Repositories at a commit: looked up, fetched into the cache, and each way in which that fails."""

import contextlib

import pytest
from huggingface_hub import constants

from growtool.errors import CheckpointError
from growtool.hub.names import Address
from growtool.hub.progress import shown_by
from growtool.hub.repository import locate, snapshot
from tests.support.hub_server import TOKEN, ask

FILES = {"config.json": b"{}", "model.safetensors": bytes(300_000)}


def located(text, repository="me/model", revision=None):
    return locate(Address(text, repository, revision))


def problem(act):
    with pytest.raises(CheckpointError) as caught:
        act()
    (told,) = caught.value.problems
    return told


def test_a_revision_is_resolved_to_a_commit_and_stays_there(hub):
    first = hub.add("me/model", FILES)
    hub.repos["me/model"].refs["v1"] = first
    found = located("me/model")
    second = hub.add("me/model", {**FILES, "config.json": b'{"changed": 1}'})
    assert found.commit == first and found.files == FILES.keys()
    assert found.fetch("config.json").read_bytes() == b"{}" and located("me/model").commit == second
    assert [located("x", revision=wanted).commit for wanted in ("v1", first, "main", second)] == [
        first, first, second, second,
    ]  # fmt: skip
    assert found.folder == snapshot("me/model", first) == found.fetch("model.safetensors").parent


def test_a_file_is_fetched_once(hub):
    hub.add("me/model", FILES)
    for _ in range(3):
        located("me/model").fetch("model.safetensors")
    assert len(hub.downloads()) == 1


def test_downloads_are_shown_small_files_are_not(hub):
    hub.add("me/model", FILES)
    seen = []

    @contextlib.contextmanager
    def show(what, size):
        seen.append([what, size, 0])

        def advance(count):
            seen[-1][2] += count

        yield advance

    shown_by(show)
    try:
        located("me/model").fetch("model.safetensors", shown=True)
    finally:
        shown_by(None)
    assert seen == [["model.safetensors of me/model", 300_000, 300_000]]


def test_a_name_that_nobody_has_is_told_with_near_ones(hub):
    hub.add("me/resnet-small", FILES)
    hub.add("you/resnet_small", FILES)
    told = problem(lambda: located("hf-hub:me/resnet_smal", "me/resnet_smal"))
    assert told.startswith(f"hf-hub:me/resnet_smal: found no repository 'me/resnet_smal' at {hub.url}, expected one")
    assert "did you mean 'me/resnet-small'?" in told and "hf auth login" in told
    assert "did you mean" not in problem(lambda: located("x", "nobody/model"))


def test_a_revision_that_is_not_there_is_told_with_those_that_are(hub):
    hub.add("me/model", FILES)
    hub.add("me/model", FILES, branch="v1")
    assert problem(lambda: located("me/model@v2", revision="v2")) == (
        "me/model@v2: found no revision 'v2', expected a branch, a tag or a commit of me/model; it has main, v1"
    )


def test_a_gated_repository_is_told_apart_and_opens_with_a_token(hub, monkeypatch):
    hub.add("me/model", FILES, gated=True)
    assert problem(lambda: located("me/model")) == (
        f"me/model: found a gated repository, expected one that may be read; ask for access at {hub.url}/me/model, "
        "then log in with `hf auth login`, or set HF_TOKEN"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert located("me/model").fetch("config.json").is_file()


@pytest.mark.parametrize("text", ["me/..model", "a/b/c", "-x"])
def test_what_can_be_no_repository_is_told_like_an_unknown_one(hub, text):
    assert f"found no repository {text!r}" in problem(lambda: located(f"hf-hub:{text}", text))


def test_a_hub_that_is_not_there(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    told = problem(lambda: located("me/model"))
    assert told.startswith("me/model: found no answer from http://127.0.0.1:9 (")
    assert told.endswith("check the network (HF_ENDPOINT names a mirror), or name a folder")
    assert str(tmp_path / "hub") in told


def test_without_the_network_the_cache_serves_what_it_has(hub, tmp_path, monkeypatch):
    commit = hub.add("me/model", FILES)
    located("me/model").fetch("config.json")
    hub.status = 503
    found = located("me/model")
    assert (found.commit, found.files) == (commit, {"config.json"})
    assert located("me/model", revision=commit).fetch("config.json").read_bytes() == b"{}"
    assert "found no answer from" in problem(lambda: found.require_complete("its weights"))
    ask(hub, tmp_path / "hub", monkeypatch, offline=True)
    asked = len(hub.asked)
    assert located("me/model").commit == commit
    told = problem(lambda: located("me/model", revision="v1"))
    assert told.startswith("me/model: found HF_HUB_OFFLINE set, and the checkpoint is not in the cache")
    assert "found HF_HUB_OFFLINE set" in problem(lambda: located("x", "you/model"))
    assert len(hub.asked) == asked


def test_an_error_of_the_hub_is_no_traceback(hub):
    hub.status = 418
    assert problem(lambda: located("me/model")).startswith(f"me/model: found an error of {hub.url} (HfHubHTTPError: ")


def test_an_interrupted_download_is_told_and_leaves_no_file(hub, monkeypatch):
    hub.add("me/model", FILES)
    found = located("me/model")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.breaks_after = 100_000
    told = problem(lambda: found.fetch("model.safetensors"))
    assert told.startswith("me/model: model.safetensors: the download was interrupted (")
    assert told.endswith("expected the whole file; run the same command again")
    assert not (found.folder / "model.safetensors").exists()
    hub.breaks_after = None
    assert found.fetch("model.safetensors").stat().st_size == 300_000
