"""A GPU without a GPU: tensors that say `cuda:0`, compute on the CPU, and obey the rules between devices.

Under `fake_gpu`, an operation on tensors of both devices is refused where CUDA would refuse it (or read
memory that is not its own); where host and GPU wait for each other is counted; and the GPU draws random
numbers from a generator of its own. Results are real: losses, checkpoints and predictions can be compared
with those of the CPU. One thing is not as in CUDA: autocast does not reach these tensors.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import torch
import torch.cuda.amp.common
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")
ON_GPU = {"cuda", "meta"}
"""Types of device that mean the GPU: torch's C++ makes numbers into tensors of the device that it sees."""
aten = torch.ops.aten
TRANSFERS = {aten._to_copy.default, aten.copy_.default}
"""What may have tensors of both devices."""
WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operations whose result the host needs: a number, or how large a tensor will be."""


TAKES_NUMBERS = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
"""What takes a single number from the CPU although it is no operation by element."""
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
"""What copies indices to the GPU by itself, and waits for it."""


class DeviceError(AssertionError):
    """An operation on tensors of different devices."""


class GpuTensor(torch.Tensor):
    """A tensor of the fake GPU; `held` has its numbers, on the CPU.

    To torch's C++ it is a tensor without memory, on the device `meta`, with the dispatch keys of CUDA: copies
    to the CPU are real operations, autograd refuses gradients of another device, autocast is that of CUDA.
    """

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type["GpuTensor"], held: torch.Tensor) -> "GpuTensor":
        """Return `held` as a tensor of the GPU; both share memory."""
        # Never tensors of inference mode, which torch would refuse as views of the others.
        with torch._C._DisableTorchDispatch(), torch.inference_mode(False):
            meta = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
            tensor: GpuTensor = torch.Tensor._make_subclass(
                cls, meta, held.requires_grad, dispatch_device=False, device_for_backend_keys=GPU
            )
        tensor.held = held.detach()
        return tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The GPU."""
        return GPU

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        """False: it has numbers."""
        return False

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """True."""
        return True

    def __setitem__(self, index: Any, value: Any) -> None:  # noqa: ANN401
        """Set a part; torch would make a number a tensor of `meta`, without the number."""
        if not isinstance(value, torch.Tensor):
            value = torch.full((), value, dtype=self.dtype, device=GPU)
        super().__setitem__(index, value)

    def tolist(self) -> Any:  # noqa: ANN401
        """Return the numbers, which torch's own does for tensors of its own classes alone."""
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Return the numbers."""
        return f"GpuTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        """Refuse: tensors of the GPU live within `fake_gpu` only."""
        raise AssertionError(f"{arguments[0]} on a tensor of the fake GPU outside of `fake_gpu`")


class FakeGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation on the CPU and checks devices.

    waits: how often host and GPU had to wait for each other, by what for. tensors: those of the GPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        self.tensors: WeakSet[torch.Tensor] = WeakSet()
        self._random_state = torch.get_rng_state()
        self._pinned: set[int] = set()

    def seed(self, seed: int) -> None:
        """Seed the GPU's generator."""
        self._random_state = torch.Generator().manual_seed(seed ^ 0x6770).get_state()

    def random_state(self, device: Any) -> torch.Tensor:  # noqa: ANN401 - as torch names devices
        """Return the state of the GPU's generator."""
        assert torch.device(device) == GPU
        return self._random_state.clone()

    def set_random_state(self, state: torch.Tensor, device: Any) -> None:  # noqa: ANN401
        """Set the state of the GPU's generator."""
        assert torch.device(device) == GPU
        self._random_state = state.clone()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Run one operation."""
        kwargs = dict(kwargs or {})
        # In inference mode torch leaves operations that are made of others to whoever comes first.
        if operation.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                return operation.decompose(*args, **kwargs)
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        on_gpu = any(isinstance(value, GpuTensor) for value in inputs)
        if operation is aten._pin_memory.default:
            pinned = args[0].clone()
            self._pinned.add(id(pinned))
            return pinned
        if on_gpu and operation not in TRANSFERS:
            self._require_one_device(operation, inputs)
        wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        to_gpu = on_gpu if wanted is None else wanted.type in ON_GPU
        self._count_waits(operation, args, kwargs, on_gpu, to_gpu)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu") if to_gpu else wanted
        holders = {id(value.held): value for value in inputs if isinstance(value, GpuTensor)}
        held_args, held_kwargs = tree_map(_held, (args, kwargs))
        with self._generator(operation, to_gpu):
            results = operation(*held_args, **held_kwargs)
        # `copy_` of the GPU's numbers to a tensor of the CPU changes, and returns, the latter.
        if operation is aten.copy_.default:
            return args[0]

        def wrapped(value: Any) -> Any:  # noqa: ANN401
            if not isinstance(value, torch.Tensor) or not to_gpu:
                return value
            if id(value) in holders:  # an operation in place returns its argument
                return holders[id(value)]
            tensor = GpuTensor(value)
            self.tensors.add(tensor)
            return tensor

        return tree_map(wrapped, results)

    def _require_one_device(self, operation: Any, inputs: Sequence[torch.Tensor]) -> None:  # noqa: ANN401
        """Refuse tensors of the CPU, except single numbers in operations by element, as CUDA does."""
        by_element = torch.Tag.pointwise in operation.tags or operation in TAKES_NUMBERS
        if operation in INDEXES and isinstance(inputs[0], GpuTensor):
            for index in [value for value in inputs[1:] if not isinstance(value, GpuTensor)]:
                if index.dtype in (torch.int64, torch.bool):
                    self.waits["to gpu"] += 1
                    inputs = [value for value in inputs if value is not index]
        for value in inputs:
            if not isinstance(value, GpuTensor) and not (by_element and value.dim() == 0):
                raise DeviceError(f"{operation}: a tensor {list(value.shape)} is on the CPU, others on {GPU}")

    def _count_waits(
        self,
        operation: Any,  # noqa: ANN401
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        on_gpu: bool,
        to_gpu: bool,
    ) -> None:
        """Count what host and GPU would wait for each other with."""
        if operation in TRANSFERS:
            source = args[0] if operation is aten._to_copy.default else args[1]
            target_on_gpu = to_gpu if operation is aten._to_copy.default else isinstance(args[0], GpuTensor)
            if isinstance(source, GpuTensor) != target_on_gpu:
                is_queued = kwargs.get("non_blocking") and target_on_gpu and id(source) in self._pinned
                if not is_queued:
                    self.waits["to gpu" if target_on_gpu else "to cpu"] += 1
            return
        masks = [x for x in tree_leaves(args[1:2]) if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
        is_masked = operation.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and bool(masks)
        is_masked |= operation.overloadpacket is aten._index_put_impl_ and bool(masks)
        if on_gpu and (operation in WAITS or is_masked):
            self.waits[str(operation)] += 1

    @contextmanager
    def _generator(self, operation: Any, on_gpu: bool) -> Iterator[None]:  # noqa: ANN401
        """Draw from the GPU's generator, where an operation on the GPU draws."""
        if not (on_gpu and torch.Tag.nondeterministic_seeded in operation.tags):
            yield
            return
        of_cpu = torch.get_rng_state()
        torch.set_rng_state(self._random_state)
        try:
            yield
        finally:
            self._random_state = torch.get_rng_state()
            torch.set_rng_state(of_cpu)


def _held(value: Any) -> Any:  # noqa: ANN401
    return value.held if isinstance(value, GpuTensor) else value


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Give this process a GPU, `cuda:0`; yield what counts its waits."""
    gpu = FakeGpu()

    def refuse(*_: Any) -> None:  # noqa: ANN401
        raise AssertionError("the state of all GPUs: a process may use those that it was given only")

    made = torch.tensor

    def tensor(*values: Any, device: Any = None, **options: Any) -> torch.Tensor:  # noqa: ANN401
        """Make a tensor as CUDA does, on the host first: torch's C++ would do so past the mode."""
        return made(*values, **options) if device is None else made(*values, **options).to(device)

    # What torch asks of CUDA's library, which this build does not have, and what Ray tells its workers.
    with (
        patch("ray.is_initialized", lambda: True),
        patch("ray.get_gpu_ids", lambda: ["0"]),
        patch("torch.tensor", tensor),
        patch("torch.cuda._lazy_init", lambda: None),
        patch("torch.cuda.is_available", lambda: True),
        patch("torch.cuda.manual_seed_all", gpu.seed),
        patch("torch.cuda.get_rng_state", gpu.random_state),
        patch("torch.cuda.set_rng_state", gpu.set_random_state),
        patch("torch.cuda.get_rng_state_all", refuse),
        patch("torch.cuda.set_rng_state_all", refuse),
        patch("torch.cuda.is_bf16_supported", lambda: True),
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        # Moving a module replaces its parameters: assigned to `.data`, a tensor would lose its Python class.
        patch("torch.__future__.get_overwrite_module_params_on_conversion", lambda: True),
        gpu,
    ):
        yield gpu
