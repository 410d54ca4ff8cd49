"""libdjinn_coordinator.so through ctypes: semantic/abi/coordinator.h, word for word. ctypes lets go of the interpreter's lock during each call."""
import ctypes
import functools
import os
import queue
import threading

from ..cli import Problem
from ..cli._parts import part
from .errors import DeadHandleError, RemoteOperationError, TargetUnreachableError

VERSION = 1
CACHE_OFF = (1 << 64) - 1
NONE, BOOL, INT, REAL, COMPLEX, STRING, DEVICE, HOST, REMOTE, LIST = range(10)
ERRORS = {1: RemoteOperationError, 2: TargetUnreachableError, 3: DeadHandleError}


class Value(ctypes.Structure):
    pass


Value._fields_ = [("kind", ctypes.c_uint32), ("dtype", ctypes.c_uint32), ("integer", ctypes.c_int64), ("real", ctypes.c_double),
                  ("imaginary", ctypes.c_double), ("data", ctypes.c_void_p), ("count", ctypes.c_uint64), ("sizes", ctypes.POINTER(ctypes.c_int64)),
                  ("strides", ctypes.POINTER(ctypes.c_int64)), ("list", ctypes.POINTER(Value)), ("remote", ctypes.c_void_p)]


class Failure(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_uint32), ("op", ctypes.c_char * 256), ("target", ctypes.c_char * 512), ("reason", ctypes.c_char * 4096)]

    def error(self):
        words = [text.decode(errors="replace") for text in (self.op, self.target, self.reason)]
        return ERRORS.get(self.kind, RemoteOperationError)(*words)


class Config(ctypes.Structure):
    _fields_ = [("node_id", ctypes.c_char_p), ("open_patience_ms", ctypes.c_uint64), ("call_patience_ms", ctypes.c_uint64),
                ("idle_ms", ctypes.c_uint64), ("cached_input_bytes", ctypes.c_uint64), ("link_library", ctypes.c_char_p),
                ("emulate", ctypes.c_char_p)]


class Stats(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in
                ("sessions_opened", "operations", "round_trips", "messages_sent", "bytes_sent", "messages_received", "bytes_received",
                 "inputs_sent", "input_bytes_sent", "inputs_reused", "results_fetched", "result_bytes_fetched", "connected")]


class RemoteInfo(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_uint32), ("conjugate", ctypes.c_uint32), ("negative", ctypes.c_uint32), ("rank", ctypes.c_uint32),
                ("sizes", ctypes.POINTER(ctypes.c_int64)), ("elements", ctypes.c_uint64), ("version", ctypes.c_uint64), ("target", ctypes.c_char_p)]


PROTOTYPES = {
    "version": (ctypes.c_uint32, []),
    "make": (ctypes.c_void_p, [ctypes.POINTER(Config), ctypes.POINTER(Failure)]),
    "close": (None, [ctypes.c_void_p]),
    "release": (None, [ctypes.c_void_p]),
    "connect": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(Failure)]),
    "statistics": (None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(Stats)]),
    "call": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Value), ctypes.c_size_t,
                               ctypes.POINTER(ctypes.c_char_p), ctypes.c_size_t, ctypes.POINTER(Failure)]),
}
RESULT_PROTOTYPES = {
    "results_values": (ctypes.POINTER(Value), [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)]),
    "results_release": (None, [ctypes.c_void_p]),
    "remote_copy": (ctypes.c_void_p, [ctypes.c_void_p]),
    "remote_release": (None, [ctypes.c_void_p]),
    "remote_describe": (None, [ctypes.c_void_p, ctypes.POINTER(RemoteInfo)]),
    "remote_fetch": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(Failure)]),
}


@functools.cache
def library():
    try:
        loaded = ctypes.CDLL(str(part("libdjinn_coordinator.so")))
    except Problem as problem:
        raise ImportError(str(problem)) from None
    for prefix, prototypes in (("djinn_coordinator_", PROTOTYPES), ("djinn_", RESULT_PROTOTYPES)):
        for name, (result, arguments) in prototypes.items():
            function = getattr(loaded, prefix + name)
            function.restype, function.argtypes = result, arguments
    if loaded.djinn_coordinator_version() != VERSION:
        raise ImportError(f"{loaded._name} speaks version {loaded.djinn_coordinator_version()}, this package {VERSION}")
    return loaded


@functools.cache
def releases():
    """A queue for handles that nobody holds any more. The collector runs on any thread, the event loop's too, and giving a handle back may wait for
    the server: a thread of its own does it."""
    pointers, release = queue.SimpleQueue(), library().djinn_remote_release

    def drain():
        while True:
            release(pointers.get())

    threading.Thread(target=drain, name="djinn-release", daemon=True).start()
    return pointers


os.register_at_fork(after_in_child=releases.cache_clear)  # the thread stays in the parent, and so do the handles that were the parent's
