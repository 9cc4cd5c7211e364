"""Two emulated CUDA devices, for a torch that has none. To import this module is to have them, for good.

Tensors say that they are on `cuda:0` and are held by the CPU, which computes. All that tests for CUDA takes that way,
and what CUDA refuses is refused: operands on two devices, CUDA indices into tensors of the CPU, generators of the CPU,
`.numpy()`, more memory than there is. Counted are synchronisations, bytes taken to a device and back, and memory.

As a plugin of pytest: `python -m pytest -p tests.cuda.emulated tests/cuda`. Needs `g++` and the headers of torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace


def built_guard() -> Path:
    """The library of `guard.cpp`, compiled unless it was before."""
    source, torch_folder = Path(__file__).with_name("guard.cpp"), torch_at()
    folder = Path(tempfile.gettempdir(), f"emulated-cuda-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} belongs to another user"
    torch_here = (torch_folder / "version.py").read_bytes() + bytes(torch_folder)  # one library for each installation
    library = folder / f"{hashlib.sha256(source.read_bytes() + torch_here).hexdigest()[:16]}.so"
    if not library.exists():
        places = [f"-I{torch_folder}/include", f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib"]
        made = library.with_suffix(f".{os.getpid()}")
        options = ["-shared", "-fPIC", "-std=c++17", "-w", *places, source, "-ltorch_cpu", "-lc10"]
        subprocess.run(["g++", *options, "-o", made], check=True)
        made.replace(library)
    return library


def torch_at() -> Path:
    """The folder of torch, which is not imported for it."""
    return Path(importlib.util.find_spec("torch").origin).parent


assert "torch" not in sys.modules, "torch asks what devices there are when it is imported"
GUARD = ctypes.CDLL(str(built_guard()))

import torch  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten  # noqa: E402


aten = torch.ops.aten
CARDS = 2
BETWEEN = (aten._to_copy.default, aten.copy_.default)  # take tensors from one device to another
BY_INDICES = (  # which may be on the CPU
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)
WAITING = (  # their results are read, or decide a shape
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten._linalg_check_errors.default,
)


# --- what is counted -------------------------------------------------------------------------------------------------


class Counts:
    """What was asked of the devices, by the line of the package that did."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.synchronisations: Counter[str] = Counter()
        self.taken_there: Counter[str] = Counter()  # bytes
        self.taken_back: Counter[str] = Counter()
        self.made: Counter[str] = Counter()  # tensors that were made there from nothing or from one of the CPU


COUNTS = Counts()
FORGOTTEN: str | None = None  # a line whose tensors stay on the CPU, as if nobody had thought of the device
WITHOUT_FLOAT64 = False  # whether the devices refuse it, as MPS does


class Memory:
    """The memory of one device, in bytes."""

    total = 80 * 10**9

    def __init__(self, index: int):
        self.index = index
        self.live = self.peak = 0
        self.peak_at = ""
        self.limit = self.total

    def take(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage until it is freed."""
        if hasattr(storage, "taken"):
            return
        size = storage.nbytes()
        if self.live + size > self.limit:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU {self.index} has a total capacity"
                f" of {self.limit / 2**30:.2f} GiB of which {(self.limit - self.live) / 2**20:.2f} MiB is free.\n"
                "This device is emulated."
            )
        storage.taken = Taken(self, size)
        self.live += size
        if self.live > self.peak:
            self.peak, self.peak_at = self.live, caller()


class Taken:
    """Lies in a storage, and dies with it."""

    def __init__(self, memory: Memory, size: int):
        self.memory, self.size = memory, size

    def __del__(self) -> None:
        self.memory.live -= self.size


MEMORY = [Memory(index) for index in range(CARDS)]


def caller() -> str:
    """The innermost line of the package; where there is none, of anything but torch."""
    frame, other = sys._getframe(2), None
    while frame is not None:
        name = frame.f_code.co_filename
        if "/optimum_flab/" in name:
            return f"{name.rpartition('/optimum_flab/')[2]}:{frame.f_lineno}"
        if other is None and name != __file__ and "/torch/" not in name:
            other = f"{name.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return str(other)


# --- tensors ---------------------------------------------------------------------------------------------------------


class OnCard(torch.Tensor):
    """A tensor of a device, of which the CPU holds the values.

    Parameters are made anew with the class and the attributes of old ones, so that it takes what those had.
    """

    @staticmethod
    def __new__(cls, held: torch.Tensor, index: int | None = None, requires_grad: bool = False, **attributes):
        if isinstance(held, OnCard) or index is None:
            return torch.nn.Parameter(held.detach(), requires_grad)
        if WITHOUT_FLOAT64 and held.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
            )
        MEMORY[index].take(held.untyped_storage())
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("cuda", index),
        )
        made.held, made.index = held, index
        return made

    def __init__(self, *arguments, **attributes):
        pass

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})

    def untyped_storage(self):
        return self.held.untyped_storage()

    def data_ptr(self):
        return self.held.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    def __format__(self, form):
        return format(self.cpu(), form)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = self.detach().clone()
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return again, (self.cpu().detach(), self.device, self.requires_grad, isinstance(self, torch.nn.Parameter))

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held, self.index = value.held, value.index


def again(held: torch.Tensor, device: torch.device, requires_grad: bool, is_parameter: bool) -> torch.Tensor:
    """A tensor that was in a file."""
    made = held.to(device)
    return torch.nn.Parameter(made, requires_grad) if is_parameter else made.requires_grad_(requires_grad)


torch.serialization.add_safe_globals([again])


def refuse(what: str, function) -> None:
    raise RuntimeError(f"Expected all tensors to be on the same device, but found {what}: {function} (emulated CUDA)")


def check_devices(function, args, kwargs, there: list[OnCard], here: list[torch.Tensor]) -> None:
    """Raises what CUDA does for operands on several devices; only numbers may be elsewhere."""
    if len({tensor.index for tensor in there}) > 1:
        refuse("cuda:0 and cuda:1", function)
    large = [tensor for tensor in here if tensor.dim() or tensor.device.type == "meta"]
    if function in BY_INDICES and isinstance(args[0], OnCard):
        indices = {id(index) for index in args[1]}
        for tensor in here:
            if id(tensor) in indices:
                COUNTS.taken_there[caller()] += tensor.nbytes
        large = [tensor for tensor in large if id(tensor) not in indices]
    if large:
        refuse(f"{there[0].device} and {large[0].device}", function)
    for place, name in written_by(function) if here else ():
        written = args[place] if place < len(args) else kwargs.get(name)
        if any(written is tensor for tensor in here):
            refuse("a result on the CPU", function)


@cache
def written_by(function) -> list[tuple[int, str]]:
    """The places and names of the arguments that an operation writes to."""
    arguments = enumerate(function._schema.arguments)
    return [(place, one.name) for place, one in arguments if one.alias_info is not None and one.alias_info.is_write]


@cache
def is_composite(function) -> bool:
    """Whether an operation consists of others for every device."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def note_copy(source: torch.Tensor, index: int | None, waits: bool = True) -> None:
    """Counts a copy to a device, or to the CPU if it has no index."""
    if isinstance(source, OnCard) and index is None:
        COUNTS.taken_back[caller()] += source.nbytes
        COUNTS.synchronisations[caller()] += waits
    elif not isinstance(source, OnCard) and index is not None:
        COUNTS.taken_there[caller()] += source.nbytes


def index_of(device: torch.device) -> int | None:
    """The number of a device; `None` for the CPU."""
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= CARDS:
        raise RuntimeError("CUDA error: invalid device ordinal (emulated)")
    return index


def computed(function, args, kwargs):
    """What an operation gives on its device."""
    if is_composite(function):
        if (found := function.decompose(*args, **kwargs)) is not NotImplemented:  # of operations that come here, too
            return found
    leaves, spec = tree_flatten((args, kwargs))
    there = [leaf for leaf in leaves if isinstance(leaf, OnCard)]
    here = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnCard)]
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu': {function} (emulated CUDA)")
    index = there[0].index if there else None
    device = kwargs.get("device")
    if device is not None:
        index = index_of(torch.device(device))
    if function is aten.copy_.default:
        index = args[0].index if isinstance(args[0], OnCard) else None
        note_copy(args[1], index, waits=not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False)))
    elif function is aten._to_copy.default:
        note_copy(args[0], index, waits=not kwargs.get("non_blocking", False))
    elif there:
        check_devices(function, args, kwargs, there, here)
    masks = function in BY_INDICES and any(one is not None and one.dtype == torch.bool for one in args[1])
    if function in WAITING or masks:
        COUNTS.synchronisations[caller()] += 1
    args, kwargs = tree_unflatten([leaf.held if isinstance(leaf, OnCard) else leaf for leaf in leaves], spec)
    if index is not None and device is not None:
        kwargs["device"] = torch.device("cpu")
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    if function is aten.histc.default:  # of integers, which the CPU does not count
        args = (args[0].float(), *args[1:])
    with torch.no_grad():
        found = function(*args, **kwargs)
    known = {id(tensor.held): tensor for tensor in there}

    def on_card(tensor: torch.Tensor) -> torch.Tensor:
        if (same := known.get(id(tensor))) is None:
            return tensor if index is None else OnCard(tensor, index)
        if same.shape != tensor.shape:  # what a result was written to
            torch.Tensor.data.__set__(same, OnCard(tensor, same.index))
        return same

    return tree_map_only(torch.Tensor, on_card, found)


# --- what torch asks without such a tensor ---------------------------------------------------------------------------


def made_by(function):
    """A function that makes tensors on a device; C++ calls it where no tensor of the device is among the arguments."""

    def make(*args, **kwargs):
        line = caller()
        COUNTS.made[line] += 1
        if line == FORGOTTEN:
            return function(*args, **{**kwargs, "device": torch.device("cpu")})
        return computed(function, args, kwargs)

    return make


def register_operations() -> torch.library.Library:
    """Has the devices make tensors from nothing, and take those that C++ copies there."""
    library = torch.library.Library("aten", "IMPL", "CUDA")
    for name in torch._C._dispatch_get_all_op_names():
        space, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if space != "aten" or not hasattr(aten, packet):
            continue
        function = getattr(getattr(aten, packet), overload or "default", None)
        arguments = [] if function is None else function._schema.arguments
        if any(argument.name == "device" for argument in arguments) and not any(
            "Tensor" in str(argument.type) for argument in arguments
        ):
            library.impl(rest, made_by(function))
    library.impl("copy_", lambda *args, **kwargs: computed(aten.copy_.default, args, kwargs))
    return library


REGISTERED = register_operations()


def index_from(device: object = None) -> int:
    """The number of a device as functions of `torch.cuda` take it."""
    if device is None or isinstance(device, int):
        return torch.cuda.current_device() if device is None else device
    return index_of(torch.device(device))


def memory_of(device: object = None) -> Memory:
    return MEMORY[index_from(device)]


def set_device(device: object) -> None:
    GUARD.set_card(index_from(device))


@contextmanager
def on_device(device: object):
    before = torch.cuda.current_device()
    set_device(device)
    try:
        yield
    finally:
        set_device(before)


def set_limit(fraction: float, device: object = None) -> None:
    memory_of(device).limit = int(fraction * Memory.total)


def forget_peak(device: object = None) -> None:
    memory_of(device).peak = memory_of(device).live


def nothing():
    """A function that does nothing. Each is another one: torch looks functions up."""
    return lambda *arguments, **options: None


PROPERTIES = SimpleNamespace(
    name="Emulated CUDA", total_memory=Memory.total, major=9, minor=0, multi_processor_count=132, uuid="0"
)
ANSWERS = {
    "_lazy_init": nothing(),
    "init": nothing(),
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: CARDS,
    "current_device": lambda: GUARD.current_card(),
    "set_device": set_device,
    "device": on_device,
    "get_device_properties": lambda device=None: PROPERTIES,
    "get_device_name": lambda device=None: PROPERTIES.name,
    "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
    "is_bf16_supported": lambda including_emulation=True: True,
    "mem_get_info": lambda device=None: (memory_of(device).limit - memory_of(device).live, Memory.total),
    "memory_allocated": lambda device=None: memory_of(device).live,
    "memory_reserved": lambda device=None: memory_of(device).live,
    "max_memory_allocated": lambda device=None: memory_of(device).peak,
    "max_memory_reserved": lambda device=None: memory_of(device).peak,
    "memory_stats": lambda device=None: defaultdict(int),
    "reset_peak_memory_stats": forget_peak,
    "set_per_process_memory_fraction": set_limit,
    "synchronize": nothing(),
    "empty_cache": nothing(),
    # numbers are drawn by the CPU
    "manual_seed": nothing(),
    "manual_seed_all": nothing(),
    "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": nothing(),
    "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)] * CARDS,
    "set_rng_state_all": nothing(),
}
for name, answer in ANSWERS.items():
    setattr(torch.cuda, name, answer)
for name in ("manual_seed", "manual_seed_all", "get_rng_state", "set_rng_state"):
    setattr(torch.cuda.random, name, ANSWERS[name])
torch.backends.cuda.is_built = lambda: True
torch.Tensor.pin_memory = lambda self, *device: self
# parameters stay the same objects where `Module.to` takes them to a device, so that shared ones stay shared
torch.__future__.set_swap_module_params_on_conversion(True)
torch.autograd.set_multithreading_enabled(False)
