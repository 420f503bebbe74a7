"""The streamed file is the one the safetensors library would write, only reproducible, whole and with a usual mode."""

import errno
import hashlib
import os
import stat

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from growtool.checkpoint import (
    Stored,
    TensorInfo,
    atomic_file,
    dtype_name,
    file_order,
    read_header,
    tensors,
    write_safetensors,
)
from growtool.checkpoint.reader import Checkpoint
from growtool.checkpoint.staging import staging
from growtool.library import ModelSpec

DTYPES = [TensorInfo((), name).torch_dtype for name in tensors.DTYPES]
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
in_place = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def infos(state):
    return {name: TensorInfo(tuple(tensor.shape), dtype_name(tensor.dtype)) for name, tensor in state.items()}


def write(path, state, metadata):
    write_safetensors(path, infos(state), state.__getitem__, metadata)


def random_bytes(shape, dtype, seed):
    """Any bit pattern, NaNs and infinities included; booleans are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).to(torch.bool)
    size = TensorInfo(shape, dtype_name(dtype)).nbytes
    raw = torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


states = st.dictionaries(names, st.tuples(shapes, st.sampled_from(DTYPES)), max_size=6).map(
    lambda kinds: {name: random_bytes(shape, dtype, i) for i, (name, (shape, dtype)) in enumerate(kinds.items())}
)


@in_place
@given(state=states, value=st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_equal_to_the_library_to_the_byte_and_back(tmp_path, state, value):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write(ours, state, {"format": value})
    safetensors.torch.save_file(state, theirs, metadata={"format": value})
    assert ours.read_bytes() == theirs.read_bytes()
    header = read_header(ours)
    assert (header.tensors, header.metadata) == (infos(state), {"format": value})
    checkpoint = Checkpoint(ours, ModelSpec("x"), header.tensors, header.metadata)
    for name, tensor in state.items():
        found = checkpoint.read(name)
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
        assert found.contiguous().view(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))


def test_every_type_has_the_place_the_library_gives_it(tmp_path):
    state = {f"{i}": torch.zeros(1, dtype=dtype) for i, dtype in enumerate(reversed(DTYPES))}
    write(tmp_path / "ours", state, {"format": "pt"})
    safetensors.torch.save_file(state, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_equal_bytes_whatever_the_order_of_metadata_and_names(tmp_path):
    state = {"b": torch.ones(2), "a": torch.zeros(3)}
    digests = set()
    for i, pairs in enumerate(([("x", "1"), ("y", "2"), ("z", "3")], [("z", "3"), ("x", "1"), ("y", "2")])):
        path = tmp_path / f"{i}"
        write(path, dict(sorted(state.items(), reverse=bool(i))), dict(pairs))
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("tensor", [torch.arange(12.0).reshape(3, 4).t(), torch.arange(12.0)[::3]])
def test_strided_tensors_are_written_in_the_order_of_their_shape(tmp_path, tensor):
    write(tmp_path / "x", {"a": tensor}, {})
    assert safetensors.torch.load_file(tmp_path / "x")["a"].equal(tensor)


def test_a_file_is_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    calls = []

    def recorded(name):
        call = getattr(os, name)
        return lambda *args: (calls.append(name), call(*args))

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name))
    write(tmp_path / "x", {"a": torch.ones(1)}, {})
    assert calls == ["fsync", "replace"]


def test_an_iterator_gives_the_tensors_in_file_order(tmp_path):
    state = {"a": torch.ones(2, dtype=torch.float16), "b": torch.zeros(3)}
    order = file_order(infos(state))
    write_safetensors(tmp_path / "x", infos(state), (state[name] for name in order), {})
    assert order == ["b", "a"]
    assert safetensors.torch.load_file(tmp_path / "x")["b"].equal(state["b"])
    with pytest.raises(ValueError, match="more than the 2 tensors"):
        write_safetensors(tmp_path / "y", infos(state), (state[name] for name in [*order, "a"]), {})
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_mode_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "x", {"a": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(2, dtype=torch.float16)])
def test_a_tensor_other_than_announced_leaves_the_old_file(tmp_path, wrong):
    path = tmp_path / "x"
    write(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a: produced .* announced"):
        write_safetensors(path, {"a": TensorInfo((2,), "F32")}, lambda name: wrong, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_interrupt_leaves_nothing(tmp_path):
    def produce(name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "x", {"a": TensorInfo((2,), "F32")}, produce, {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named_and_no_hidden_file(tmp_path):
    path = tmp_path / "none" / "x.safetensors"
    with pytest.raises(FileNotFoundError) as caught, atomic_file(path):
        pass
    assert caught.value.filename == str(path)


def test_a_folder_that_cannot_be_written_is_told_by_the_output_and_not_by_a_hidden_name(tmp_path, monkeypatch):
    def denied(*_, suffix, dir, **__):
        raise PermissionError(13, "Permission denied", f"{dir}/hidden{suffix}")

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(PermissionError) as caught, staging(tmp_path / "out"):
        pass
    assert caught.value.filename == str(tmp_path / "out")


def refused(*arguments):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def some_bytes(source, target, count, start, place, copied=os.copy_file_range):
    return copied(source, target, min(count, 5), start, place) if start % 3 else 0


@pytest.mark.parametrize("system", ["copies", "copies some", "refuses", "copies nothing", "knows of no copies"])
def test_a_tensor_in_another_file_is_copied_whatever_the_system_can_do(tmp_path, monkeypatch, system):
    state = {f"{n}": random_bytes((n, 7), torch.float16, n) for n in range(5)}
    write(tmp_path / "source", state, {})
    source = Checkpoint(tmp_path / "source", ModelSpec("x"), infos(state), {})
    if system == "knows of no copies":
        monkeypatch.delattr(os, "copy_file_range")
    elif system != "copies":
        replaced = {"copies some": some_bytes, "refuses": refused, "copies nothing": lambda *arguments: 0}
        monkeypatch.setattr(os, "copy_file_range", replaced[system])
    made = (source.place_of(name) if int(name) % 2 else state[name] for name in file_order(infos(state)))
    write_safetensors(tmp_path / "copied", infos(state), made, {})
    assert (tmp_path / "copied").read_bytes() == (tmp_path / "source").read_bytes()


def test_what_ends_before_its_tensor_does_is_refused(tmp_path):
    source = tmp_path / "short"
    source.write_bytes(b"1234")
    with pytest.raises(OSError, match="4 bytes are missing") as caught:
        write_safetensors(
            tmp_path / "out", {"x": TensorInfo((8,), "U8")}, iter([Stored(source, 0, TensorInfo((8,), "U8"))]), {}
        )
    assert caught.value.filename == str(source)
    assert [path.name for path in tmp_path.iterdir()] == ["short"]
