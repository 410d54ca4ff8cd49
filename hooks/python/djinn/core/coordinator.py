"""Operators by name on remote servers: what a call gives stays on the server, under a handle, until somebody asks for the numbers.

    async with DjinnCoordinator(CoordinatorConfig(node_id="client")) as coordinator:
        y = await coordinator.execute_remote_operation("aten::matmul", [a, b], "localhost:5556")
        z = await coordinator.execute_remote_operation("aten::relu", [y], "localhost:5556")     # y does not travel
        print(z.shape, z.cpu())                                                                  # now z does

Each operator is one round trip. An input whose numbers are on the server already is not sent again. No preload is needed. The work is done by
libdjinn_coordinator.so (hooks/coordinator); the event loop never waits for a server, threads do.
"""
import asyncio
import concurrent.futures
import ctypes
import dataclasses
import os
import sys
import threading
import weakref

from . import _library as c
from ._values import DTYPES, Encoder, decode, torch_is_installed
from .errors import DeadHandleError, DjinnError, RemoteOperationError, TargetUnreachableError

__all__ = ["CoordinatorConfig", "DjinnCoordinator", "RemoteTensor", "DjinnError", "RemoteOperationError", "TargetUnreachableError", "DeadHandleError"]


@dataclasses.dataclass
class CoordinatorConfig:
    node_id: str                        # what the server calls this client (djinn-gpu-server --stats)
    tcp_fallback: bool = True           # TCP will do. There is no faster transport between machines: without it only ipc:// targets are reached
    open_timeout: float = 30.0          # seconds, for opening a session
    operation_timeout: float = 120.0    # seconds, for one answer; after it the session is given up
    idle_timeout: float = 60.0          # seconds without use or living handles, after which a session ends
    cached_input_bytes: int = 1 << 30   # inputs that a target keeps because equal ones may come again; 0: none
    max_concurrency: int = 16           # calls that wait for servers at the same time
    link: str = None                    # an emulated network, in the words of DJINN_LINK (default: what that says)

    def __post_init__(self):
        if not 0 <= self.cached_input_bytes < c.CACHE_OFF:
            raise ValueError(f"cached_input_bytes={self.cached_input_bytes}: a number of bytes, or 0 to keep none")


class RemoteTensor:
    """A tensor on a server. May be an input of further operators there; read it with cpu() or numpy(), or give it to a function of torch."""

    def __init__(self, coordinator, pointer):
        library = c.library()
        self._pointer = library.djinn_remote_copy(pointer)
        if not self._pointer:
            raise MemoryError
        self._finalizer = weakref.finalize(self, c.releases().put, self._pointer)
        self._coordinator, self._lock, self._numbers = coordinator, threading.Lock(), None
        info = self._describe()
        self._dtype, self.target = info.dtype, info.target.decode()
        self._shape = tuple(info.sizes[i] for i in range(info.rank))

    def _describe(self):
        info = c.RemoteInfo()
        c.library().djinn_remote_describe(self._pointer, ctypes.byref(info))
        return info

    def _djinn_handle(self):
        return self._pointer

    @property
    def shape(self):
        """A torch.Size, or a tuple in a program that has not imported torch."""
        torch = sys.modules.get("torch")
        return torch.Size(self._shape) if torch else self._shape

    @property
    def dtype(self):
        """torch's, or its name in a program that has not imported torch."""
        torch, name = sys.modules.get("torch"), DTYPES[self._dtype][0]
        return getattr(torch, name) if torch else name

    @property
    def device(self):
        return f"djinn:{self.target}"

    @property
    def ndim(self):
        return len(self._shape)

    def dim(self):
        return self.ndim

    def size(self, dim=None):
        return self.shape if dim is None else self._shape[dim]

    def numel(self):
        return self._describe().elements

    def __len__(self):
        if not self._shape:
            raise TypeError("len() of a tensor without dimensions")
        return self._shape[0]

    def __bool__(self):
        return bool(self.cpu())

    def __repr__(self):
        return f"RemoteTensor(shape={self._shape}, dtype={DTYPES[self._dtype][0]}, device='{self.device}')"

    def _fetch(self):
        """(bytes in row-major order, whether to conjugate, whether to negate), asked for once for each version of the numbers."""
        with self._lock:
            info = self._describe()
            if self._numbers is None or self._numbers[0] != info.version:
                raw = bytearray(info.elements * DTYPES[self._dtype][2])
                place = (ctypes.c_char * max(len(raw), 1)).from_buffer(raw) if raw else (ctypes.c_char * 1)()
                failure = c.Failure()
                if not c.library().djinn_remote_fetch(self._pointer, ctypes.addressof(place), len(raw), ctypes.byref(failure)):
                    raise failure.error()
                self._numbers = info.version, raw, bool(info.conjugate), bool(info.negative)
            return self._numbers[1:]

    def _torch(self):
        import torch
        raw, conjugate, negative = self._fetch()
        tensor = torch.frombuffer(bytearray(raw), dtype=self.dtype) if raw else torch.empty(0, dtype=self.dtype)
        tensor = tensor.reshape(self._shape)
        tensor = tensor.conj().resolve_conj() if conjugate else tensor
        return -tensor if negative else tensor

    def cpu(self):
        """A tensor of torch with the numbers (an array of numpy where torch is not installed); a copy of one's own. Waits, if they have to come."""
        return self._torch() if torch_is_installed() else self.numpy()

    def numpy(self):
        if DTYPES[self._dtype][1] is None:
            raise TypeError(f"numpy has no {DTYPES[self._dtype][0]}; cpu() gives a tensor of torch")
        import numpy
        raw, conjugate, negative = self._fetch()
        array = numpy.frombuffer(bytearray(raw), dtype=DTYPES[self._dtype][1]).reshape(self._shape)
        if conjugate:
            numpy.conjugate(array, out=array)  # the functions without `out` would make a number of a 0-dimensional array
        if negative:
            numpy.negative(array, out=array)
        return array

    def __array__(self, dtype=None, copy=None):
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    async def fetch(self):
        """cpu(), without holding up the event loop."""
        return await self._coordinator._in_thread(self.cpu)

    def item(self):
        return self.cpu().item()

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """A function of torch that is given a handle computes here, with the numbers. What it would write to the handle would be lost."""
        kwargs, name = kwargs or {}, getattr(function, "__name__", str(function))
        written = [args[:1] if name.endswith("_") and not name.endswith("__") or kwargs.get("inplace") else (), kwargs.get("out")]
        if any(map(_holds_handle, written)):
            raise TypeError(f"{name} would write to a RemoteTensor here: have the server do it (aten::{name.rstrip('_')}_ or out=), or fetch it first")

        def local(value):
            if isinstance(value, RemoteTensor):
                return value.cpu()
            if isinstance(value, (list, tuple)) and any(isinstance(v, (RemoteTensor, list, tuple)) for v in value):
                return type(value)(map(local, value)) if type(value) in (list, tuple) else value
            return value
        return function(*map(local, args), **{name: local(value) for name, value in kwargs.items()})


def _holds_handle(value):
    return isinstance(value, RemoteTensor) or isinstance(value, (list, tuple)) and any(map(_holds_handle, value))


class DjinnCoordinator:
    """Sessions with servers, one for each target, opened when first used, used by everybody, replaced when lost. Any number of calls may be under way;
    safe for threads. Use start() and stop(), or `async with`."""

    def __init__(self, config):
        if not isinstance(config, CoordinatorConfig):
            raise TypeError("DjinnCoordinator takes a CoordinatorConfig")
        self.config = config
        self._native = self._threads = self._owner = None
        self._state = threading.Lock()

    async def start(self):
        with self._state:
            if self._native and self._owner == os.getpid():
                return
            library, config, failure = c.library(), self.config, c.Failure()
            milliseconds = [max(1, round(seconds * 1000)) for seconds in (config.open_timeout, config.operation_timeout, config.idle_timeout)]
            link = config.link if config.link is not None else os.environ.get("DJINN_LINK", "")
            given = c.Config(config.node_id.encode(), *milliseconds, config.cached_input_bytes or c.CACHE_OFF, None, link.encode() or None)
            self._native = library.djinn_coordinator_make(ctypes.byref(given), ctypes.byref(failure))
            if not self._native:
                raise failure.error()
            self._owner, self._finalizer = os.getpid(), weakref.finalize(self, library.djinn_coordinator_release, self._native)
            self._threads = concurrent.futures.ThreadPoolExecutor(config.max_concurrency, thread_name_prefix="djinn")

    async def stop(self):
        """Ends the sessions. Handles are dead afterwards, except for numbers that they have fetched."""
        with self._state:
            native, threads = self._native, self._threads
            self._native = self._threads = None
        if native is None:
            return
        await asyncio.get_running_loop().run_in_executor(None, self._close, native)
        threads.shutdown(wait=False)

    def _close(self, native):  # bound: whoever waits for a server keeps this object, and so what `native` points to, although nobody else may
        c.library().djinn_coordinator_close(native)

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.stop()

    def _running(self, op, target):
        if self._native is None:
            raise TargetUnreachableError(op, target, "the coordinator is not running (start() it)")
        if self._owner != os.getpid():
            raise TargetUnreachableError(op, target, "this process was forked from the one that started the coordinator (start() it here, too)")
        if not self.config.tcp_fallback and not target.startswith("ipc://"):
            raise TargetUnreachableError(op, target, "it is reached over TCP, which tcp_fallback=False rules out")
        return self._native

    async def _in_thread(self, work, *arguments):
        threads = self._threads if self._owner == os.getpid() else None  # a forked child does not have its parent's
        return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)

    async def connect(self, target):
        """Opens the session with `target` now instead of at its first operator."""
        self._running("", target)
        await self._in_thread(self._connect, target)

    def _connect(self, target):
        failure = c.Failure()
        if not c.library().djinn_coordinator_connect(self._running("", target), target.encode(), ctypes.byref(failure)):
            raise failure.error()

    async def execute_remote_operation(self, op, inputs, target=None, /, *, keywords=None, **further):
        """Runs `op` ("aten::add", or one overload, "aten::add.Tensor") at `target` ("HOST:PORT", "tcp://…", "ipc://…"). `inputs` are its arguments by
        position: handles, tensors of torch, arrays of numpy, numbers, strings, dtypes, None, lists of these; further ones by keyword or in the
        dictionary `keywords`. The result is a RemoteTensor, a number, or a list; several are a tuple, none is None. An operator in place gives back the
        handle of what it has written (those whose schema returns nothing, _foreach_add_, give None).

        `target=` names the server unless that is given by position; then it is the operator's, as in mse_loss(…, target=y)."""
        target, named = self._target(op, target, keywords, further)
        return await self._in_thread(self._execute, op, list(inputs), target, named)

    def execute(self, op, inputs, target=None, /, *, keywords=None, **further):
        """execute_remote_operation for programs without an event loop; the calling thread waits."""
        target, named = self._target(op, target, keywords, further)
        return self._execute(op, list(inputs), target, named)

    def _target(self, op, target, keywords, further):
        """Which server is meant, and the operator's keywords."""
        if target is None:
            target = further.pop("target", None)
        if not isinstance(target, str):
            raise RemoteOperationError(op, "no target", f"the target is a string such as 'localhost:5556', not {type(target).__qualname__}")
        twice = sorted(set(keywords or ()) & set(further))
        if twice:
            raise RemoteOperationError(op, target, f"argument '{twice[0]}' is given twice")
        self._running(op, target)
        return target, {**(keywords or {}), **further}

    def _execute(self, op, inputs, target, kwargs):
        library, failure, encoder, count = c.library(), c.Failure(), Encoder(), ctypes.c_size_t()
        native = self._running(op, target)
        try:
            values = encoder.array([*inputs, *kwargs.values()])
        except (TypeError, ValueError, RuntimeError) as error:  # torch raises RuntimeErrors where a tensor has no memory to show
            raise RemoteOperationError(op, target, str(error)) from None
        names = (ctypes.c_char_p * max(len(kwargs), 1))(*[name.encode() for name in kwargs])
        results = library.djinn_coordinator_call(native, op.encode(), target.encode(), values, len(inputs) + len(kwargs), names, len(kwargs),
                                                 ctypes.byref(failure))
        if not results:
            raise failure.error()
        try:
            given = library.djinn_results_values(results, ctypes.byref(count))
            found = tuple(decode(given[i], lambda pointer: RemoteTensor(self, pointer)) for i in range(count.value))
        finally:
            library.djinn_results_release(results)
        return found[0] if len(found) == 1 else found or None

    def statistics(self, target):
        """What has gone to and come from `target` so far, over all sessions with it: a dictionary of counters."""
        stats = c.Stats()
        if self._native:
            c.library().djinn_coordinator_statistics(self._native, target.encode(), ctypes.byref(stats))
        return {name: getattr(stats, name) for name, _ in c.Stats._fields_}
