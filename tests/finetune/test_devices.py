"""What training does on devices, as far as a CPU shows it: which is used, what is copied from it, what waits for it."""

import copy
import os
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from growtool.errors import PlanError
from growtool.finetune.evaluate import evaluate
from growtool.finetune.options.settings import default_workers
from growtool.finetune.parallel.device import in_use, is_out_of_memory, joining_device, resolve_device
from growtool.finetune.parallel.distributed import World, joined, synchronised
from growtool.finetune.prepare import prepare
from growtool.finetune.run import finetune
from growtool.finetune.state.copies import Copies, Finite
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.snapshot import Snapshot, take
from growtool.finetune.update import model as finetune_model
from growtool.finetune.update.adapters import LowRank, initial_factors
from tests.support.finetune import UNCLOSED_IMAGES, evaluated, run_config
from tests.support.models import randomise_

CPU = torch.device("cpu")


def test_a_numbered_device_is_refused_for_several_processes():
    with pytest.raises(PlanError, match=r"--device: found 'cuda:1' for several processes.*expected cuda.*CUDA_VISIBLE"):
        resolve_device("cuda:1", World(0, 2, local_rank=0))
    assert resolve_device("cpu", World(1, 2, local_rank=1)) == CPU


@pytest.mark.parametrize(
    ("device", "backend"), [(CPU, "gloo"), (torch.device("cuda", 1), "cpu:gloo,cuda:nccl")], ids=["cpu", "cuda"]
)
def test_processes_talk_by_the_backend_of_the_device(
    device: torch.device, backend: str, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **who: opened.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with joined(World(rank=1, size=2, local_rank=1), device):
        assert opened == [backend]


def test_runs_one_after_the_other_talk_as_one_on_a_cuda_device_needs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    world = World(rank=1, size=2, local_rank=1)
    assert joining_device(["cpu", "cuda", "cpu"], world) == torch.device("cuda", 1)
    assert joining_device(["cpu"], world) == joining_device([], world) == CPU


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_uses_its_device_with_fast_kernels_and_leaves_everything_as_it_was(
    wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    entered, forgotten = [], []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(entered.append(device)))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul

    def switches() -> tuple[bool, bool, bool]:
        return cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32

    before, device = switches(), torch.device("cuda", 1)
    with pytest.raises(RuntimeError, match="within"), in_use(device, tf32=wanted):
        assert switches() == (wanted, wanted, wanted)
        raise RuntimeError("within")
    assert (switches(), entered, forgotten) == (before, [device], [device])
    with in_use(CPU, tf32=wanted):
        assert switches() == before


def test_precisions_that_were_set_by_their_new_names_are_restored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    kinds, before = (products, cudnn.conv, cudnn.rnn), products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        expected = [kind.fp32_precision for kind in kinds]
        with in_use(torch.device("cuda", 0), tf32=False):
            assert "tf32" not in [kind.fp32_precision for kind in kinds]
            assert not products.allow_tf32
        assert [kind.fp32_precision for kind in kinds] == expected
    finally:
        products.allow_tf32 = False
        products.fp32_precision = before


@pytest.mark.parametrize("trains", [True, False])
def test_training_and_evaluation_use_the_device_throughout(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trains: bool
):
    from growtool.finetune import evaluate as evaluating
    from growtool.finetune import run as running

    used: list[tuple[torch.device, bool]] = []

    def noted(device: torch.device, *, tf32: bool) -> Any:
        used.append((device, tf32))
        return nullcontext()

    monkeypatch.setattr(running, "in_use", noted)
    monkeypatch.setattr(evaluating, "in_use", noted)
    if trains:
        finetune(run_config(checkpoint, data, tmp_path / "run", epochs=None, steps=1, tf32=False))
    else:
        evaluated(checkpoint, data, tf32=False)
    assert used == [(CPU, False)]


SAID = (
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error. Last error: Cuda failure 2 'out of memory'",
    "NCCL error: unhandled cuda error. Last error: Failed to CUDA calloc async 608 bytes",
    "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate",
    "std::bad_alloc",
)


@pytest.mark.parametrize("words", SAID, ids=lambda words: words[:24])
def test_memory_that_runs_out_is_recognised_whoever_says_it(words: str):
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError(words))


def test_synchronised_norms_keep_the_activation_that_is_part_of_them():
    model = randomise_(timm.create_model("test_efficientnet", num_classes=3).eval()).double()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        before = model(images)
        model = synchronised(model)
        torch.testing.assert_close(model(images), before)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in kinds) and kinds


def test_processes_share_the_cores_of_their_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(24), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (default_workers(), default_workers(6), default_workers(100)) == (16, 4, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert default_workers() == 3


@UNCLOSED_IMAGES
def test_evaluation_starts_its_workers_once(checkpoint: Path, data: Path, tmp_path: Path):
    before = {child.pid for child in active_children()}
    job = prepare(run_config(checkpoint, data, tmp_path / "run", workers=1), CPU)
    job.evaluate()
    first = {child.pid for child in active_children()} - before
    job.evaluate()
    assert {child.pid for child in active_children()} - before == first and len(first) == 1


class NoWaiting(TorchDispatchMode):
    """Refuses what has to wait for a device: a number read from it, or a size that its values decide."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name() not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"), func
        if func.name() == "aten::index.Tensor":
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), func
        return func(*args, **(kwargs or {}))


def test_evaluation_does_not_wait_for_the_device_at_a_batch():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    images = torch.randn(3, 5, 3, 2, 2, generator=generator)
    targets = torch.tensor([[0, 1, 2, 3, -1], [4, 5, 6, -3, -1], [-1, -1, -1, -1, -1]])

    def batches():
        with NoWaiting():
            yield from zip(images, targets, strict=True)

    found = evaluate(model, batches(), device=CPU)
    counted = targets.flatten() >= 0
    with torch.no_grad():
        logits = model(images.flatten(0, 1))[counted]
    expected = targets.flatten()[counted]
    assert found.count == 7
    assert found.top1 == pytest.approx(100 * (logits.argmax(1) == expected).float().mean())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, expected).item())


@UNCLOSED_IMAGES
@pytest.mark.parametrize("averaged", [False, True])
def test_evaluation_is_compiled_where_training_is(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaged: bool
):
    called: list[tuple[nn.Module, bool]] = []

    def compiled(model: nn.Module, backend: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(images: torch.Tensor) -> torch.Tensor:
            called.append((model, model.training))
            return model(images)

        return call if backend else model

    for module in ("assemble", "evaluate"):
        monkeypatch.setattr(f"growtool.finetune.{module}.compiled", compiled)
    assert finetune_model.compiled is not compiled
    config = run_config(checkpoint, data, tmp_path / "run", torchcompile="eager", model_ema=averaged)
    job = prepare(config, CPU)
    job.evaluate()
    assert {(id(model), training) for model, training in called} == {(id(job.trainer.evaluated), False)}
    called.clear()
    finetune(config)
    assert len([model for model, training in called if training]) == 6
    assert len({id(model) for model, training in called if not training}) == 2  # of the run, and best/ read back


def test_adapters_compute_in_autocast_what_is_written():
    layer = randomise_(nn.Linear(6, 5))
    up, down = torch.randn(5, 2), torch.randn(2, 6)
    parametrize.register_parametrization(layer, "weight", LowRank(up, down, 0.7))
    written = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, written)


class LargestDecomposition(TorchDispatchMode):
    """The longer side of the largest matrix that is decomposed as a whole."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in ("aten::_linalg_svd", "aten::_linalg_eigh"):
            self.size = max(self.size, *args[0].shape)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [(6, 300), (300, 6)])
def test_adapters_decompose_a_matrix_of_the_shorter_side_alone(shape: tuple[int, int]):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with LargestDecomposition() as seen:
        up, down = initial_factors(gradient, 2)
    assert seen.size == 6
    left, _, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    for found, expected in ((up, left[:, 2:4]), (down.T, right[:2].T)):
        vectors = found.double() / found.double().norm(dim=0)
        torch.testing.assert_close((vectors.T @ expected).abs(), torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-5)


def tensors_of(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    """Every tensor it holds by what it is: once for each of its places."""
    places = {"weights": snapshot.weights, "evaluated": snapshot.evaluated, "optimizer": snapshot.optimizer.tensors}
    places |= {"raw": snapshot.raw or {}, "ema": snapshot.ema or {}}
    return {f"{place}/{name}": tensor for place, state in places.items() for name, tensor in state.items()}


@UNCLOSED_IMAGES
@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}], ids=["plain", "adapters"])
def test_a_snapshot_copies_every_tensor_once_into_memory_that_the_next_one_uses(
    checkpoint: Path, data: Path, tmp_path: Path, settings: dict[str, Any]
):
    config = run_config(checkpoint, data, tmp_path / "run", model_ema=True, **settings)
    job = prepare(config, CPU)
    job.begin_epoch(1)
    batches, copies = job.train.epoch(1), Copies()
    trainer, course = job.trainer, RunProgress()
    trainer.update(*next(batches))
    copied = CountBytes()
    with copied:
        first = take(trainer, course, copies)
    held = [job.trainer.model.state_dict(), job.trainer.evaluated.state_dict()]
    own = sum(tensor.nbytes for state in held for tensor in state.values())
    own += sum(value.nbytes for slots in trainer.optimizer.state.values() for value in slots.values())
    computed = 2 * sum(layer.weight.nbytes for layer in trainer.model.modules() if parametrize.is_parametrized(layer))
    assert copied.bytes == own + computed  # the products of adapters beside what they are made of
    before = tensors_of(first)
    values = {name: tensor.clone() for name, tensor in before.items()}
    trainer.update(*next(batches))
    assert all(torch.equal(values[name], tensor) for name, tensor in before.items())
    after = tensors_of(take(trainer, course, copies))
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == {
        name: tensor.data_ptr() for name, tensor in before.items()
    }
    assert any(not torch.equal(values[name], tensor) for name, tensor in after.items())


class CountBytes(TorchDispatchMode):
    """The bytes that copies write."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.name() in ("aten::copy_", "aten::clone", "aten::_to_copy"):
            self.bytes += found.nbytes
        return found


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_named(bad: float, dtype: torch.dtype):
    finite = Finite()
    finite.look("counts", torch.tensor([1]))
    finite.look("none", torch.empty(0))
    assert list(finite.failed()) == []
    finite.look("fine", torch.tensor([1.0, -2.0], dtype=dtype))
    finite.look("spoilt", torch.tensor([1.0, bad, 0.0], dtype=dtype))
    assert list(finite.failed()) == ["spoilt"]


@UNCLOSED_IMAGES
def test_what_is_not_finite_is_looked_for_where_it_is_and_not_in_copies(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looked: list[int] = []
    monkeypatch.setattr(Finite, "look", lambda finite, name, tensor: looked.append(tensor.data_ptr()))
    trainer = prepare(run_config(checkpoint, data, tmp_path / "run", model_ema=True), CPU).trainer
    take(trainer, RunProgress(), Copies())
    states = [trainer.model.state_dict(), trainer.evaluated.state_dict()]
    assert looked == [tensor.data_ptr() for state in states for tensor in state.values()]


@UNCLOSED_IMAGES
def test_a_process_that_does_not_write_copies_nothing(checkpoint: Path, data: Path, tmp_path: Path):
    job = prepare(run_config(checkpoint, data, tmp_path / "run", model_ema=True), CPU)
    copied = CountBytes()
    with copied:
        assert take(job.trainer, RunProgress(), None) is None
    assert copied.bytes == 0


def test_a_copy_of_the_model_has_its_own_memory(checkpoint: Path):
    model = nn.Linear(2, 2)
    copies = Copies()
    taken = copies.copy("weight", model.weight)
    with torch.no_grad():
        other = copy.deepcopy(model.weight)
        model.weight.zero_()
    assert torch.equal(taken, other)
