"""Drives libdjinn_aten-MINOR.so from Python through its C table (semantic/abi/executor.h): an arena in this process, op records encoded as hooks/torch does.

`Shadow` is a dispatch mode: each op that PyTorch runs on the CPU under it is also sent to the executor as an op record on a copy of its arguments, and
the two results are compared. So OpInfo's samples exercise the wire, the decoder, placement and the rewrites without a client, a server or a GPU.
"""
import collections
import ctypes
import mmap
import struct

import torch
from torch.utils._python_dispatch import TorchDispatchMode

OP_DEFINE, TENSOR_DEFINE, OP_RUN = 0x50, 0x51, 0x53
(NONE, UNDEFINED, TENSOR, HOST_TENSOR, INTEGER, REAL, BOOLEAN, COMPLEX, STRING, DEVICE, LIST, GENERATOR) = range(12)
ALIAS = 16
INTEGERS, REALS, BOOLEANS, TENSORS, OPTIONAL_TENSORS, NUMBERS, STRINGS = range(7)
WRAPPED_NUMBER, CONJUGATE, NEGATIVE = 1, 2, 4
HAS_GENERATOR = 1
DTYPES = {torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5, torch.float32: 6, torch.float64: 7,
          torch.complex32: 8, torch.complex64: 9, torch.complex128: 10, torch.bool: 11, torch.bfloat16: 15, torch.uint16: 27,
          torch.uint32: 28, torch.uint64: 29}
MEMORY_FORMATS = {torch.contiguous_format: 0, torch.preserve_format: 1, torch.channels_last: 2, torch.channels_last_3d: 3}
SCALARS = {bool: ("<?", torch.bool), int: ("<q", torch.int64), float: ("<d", torch.float64), complex: ("<dd", torch.complex128)}


class CannotTravel(Exception):
    """The value is not strided, or too big for the arena: the op is left out and counted."""


class Host(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("size", ctypes.c_uint32), ("session", ctypes.c_void_p), ("live", ctypes.c_void_p),
                ("epoch", ctypes.c_void_p), ("range_address", ctypes.c_uint64), ("range_size", ctypes.c_uint64), ("log", ctypes.c_void_p),
                ("multiprocessors", ctypes.c_uint32), ("threads_per_multiprocessor", ctypes.c_uint32)]


class Result(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("error_class", ctypes.c_uint32), ("operation", ctypes.c_char_p), ("text", ctypes.c_char_p),
                ("reply", ctypes.c_void_p), ("reply_size", ctypes.c_size_t)]


class Table(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("size", ctypes.c_uint32), ("torch", ctypes.c_char_p), ("ops", ctypes.c_void_p),
                ("open", ctypes.c_void_p), ("execute", ctypes.c_void_p), ("set_threads", ctypes.c_void_p), ("close", ctypes.c_void_p)]


def word(tag, a=0, b=0, id=0):
    return struct.pack("<BBHI", tag, a, b, id)


def padded(data):
    return data + bytes(-len(data) % 8)


def string(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + padded(data)


class Executor:
    """The library, one session, and an arena that starts anew with each op."""

    def __init__(self, library, arena_bytes=1 << 30, threads=2):
        so = ctypes.CDLL(str(library))
        so.djinn_executor_load.restype = ctypes.POINTER(Table)
        error = ctypes.create_string_buffer(512)
        table = so.djinn_executor_load(None, error, len(error))
        assert table, error.value.decode()
        self.table = table.contents
        count = ctypes.c_size_t()
        names = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_size_t))(self.table.ops)(ctypes.byref(count))
        self.ops = {names[i].decode() for i in range(count.value)}
        self.memory = mmap.mmap(-1, arena_bytes)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.raw = torch.frombuffer(self.memory, dtype=torch.uint8)
        self.end, self.used, self.tensor_id, self.op_ids = self.base + arena_bytes, 0, 0, {}
        self.live = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)(
            lambda _, address, size: int(self.base <= address and address + size <= self.end))
        self.epoch = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(lambda _: 1)
        self.host = Host(self.table.version, ctypes.sizeof(Host), None, ctypes.cast(self.live, ctypes.c_void_p), ctypes.cast(self.epoch, ctypes.c_void_p), self.base,
                         arena_bytes, None, 4, 1536)
        self.session = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Host), ctypes.c_int)(self.table.open)(ctypes.byref(self.host), threads)
        assert self.session, "the executor refused the session"
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t,
                                     ctypes.POINTER(Result))(self.table.execute)

    def execute(self, opcode, payload):
        result = Result()
        self.call(self.session, opcode, 0, payload, len(payload), ctypes.byref(result))
        return result

    def reserve(self, size):
        offset, self.used = self.used, self.used + (size + 511) // 512 * 512
        if self.used > self.raw.numel():
            raise CannotTravel("arena is full")
        return offset

    def define(self, t, offset):
        self.tensor_id = (self.tensor_id + 1) % 100000
        flags = (CONJUGATE if t.is_conj() else 0) | (NEGATIVE if t.is_neg() else 0)
        payload = struct.pack("<IBBHQQq", self.tensor_id, t.dim(), DTYPES[t.dtype], flags, self.base + offset, t.untyped_storage().nbytes(),
                              t.storage_offset()) + b"".join(struct.pack("<q", n) for n in [*t.size(), *t.stride()])
        result = self.execute(TENSOR_DEFINE, payload)
        assert result.code == 0, result.text
        return word(TENSOR, id=self.tensor_id)

    def op_id(self, name, overload):
        if (name, overload) not in self.op_ids:
            self.op_ids[name, overload] = len(self.op_ids)
            self.execute(OP_DEFINE, struct.pack("<Q", self.op_ids[name, overload]) + string(name) + string(overload))
        return self.op_ids[name, overload]

    def read(self, t, offset):
        """What lies in the arena, in the shape of t."""
        copy = self.raw[offset:offset + t.untyped_storage().nbytes()].clone()
        out = torch.empty(0, dtype=t.dtype).set_(copy.untyped_storage(), t.storage_offset(), t.size(), t.stride())
        out = torch.conj(out) if t.is_conj() else out
        return torch._neg_view(out) if t.is_neg() else out


class Record:
    """One op record under construction: arguments copied into the arena (aliases stay aliases), outputs as fresh memory there."""

    def __init__(self, executor, func, arguments):
        self.executor, self.schema, self.arguments, self.storages, self.outputs = executor, func._schema, arguments, {}, []
        executor.used = 0
        self.body = b"".join(self.value(v, str(a.type)) for v, a in zip(arguments, self.schema.arguments))
        self.results = b""

    def tensor(self, t):
        if t.layout != torch.strided or t.is_quantized or t.is_nested or t._is_zerotensor() or t.dtype not in DTYPES:
            raise CannotTravel(str(t.layout))
        storage = t.untyped_storage()
        if storage._cdata not in self.storages:
            offset = self.storages[storage._cdata] = self.executor.reserve(storage.nbytes())
            self.executor.raw[offset:offset + storage.nbytes()].copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
        return self.executor.define(t, self.storages[storage._cdata])

    def values(self, items, type):
        def bare(kind, form, cast):
            return word(LIST, kind, id=len(items)) + b"".join(struct.pack(form, cast(i)) for i in items)
        def each(kind, element):
            return word(LIST, kind, id=len(items)) + b"".join(word(NONE) if i is None else self.value(i, element) for i in items)
        if "Tensor" in type:
            return each(OPTIONAL_TENSORS if "Optional[Tensor]" in type else TENSORS, "Tensor")
        if "bool" in type:
            return bare(BOOLEANS, "<Q", int)
        if "float" in type:
            return bare(REALS, "<d", float)
        if "number" in type:
            return each(NUMBERS, "number")
        return each(STRINGS, "str") if "str" in type else bare(INTEGERS, "<q", int)

    def value(self, v, type):
        if isinstance(v, torch.Tensor):
            return self.tensor(v)
        if v is None:
            return word(UNDEFINED if type == "Tensor" else NONE)
        if isinstance(v, (list, tuple)):
            return self.values(v, type)
        if "Tensor" in type:  # Python hands a number over where C++ would have wrapped it
            form, dtype = SCALARS[v.__class__]
            data = struct.pack(form, *((v.real, v.imag) if isinstance(v, complex) else (v,)))
            return word(HOST_TENSOR, 0, DTYPES[dtype] | WRAPPED_NUMBER << 8) + struct.pack("<Q", len(data)) + padded(data)
        if isinstance(v, bool):
            return word(BOOLEAN, v)
        if isinstance(v, float) or (isinstance(v, int) and "float" in type):
            return word(REAL) + struct.pack("<d", v)
        if isinstance(v, complex):
            return word(COMPLEX) + struct.pack("<dd", v.real, v.imag)
        if isinstance(v, str):
            return word(STRING, id=len(v.encode())) + padded(v.encode())
        if isinstance(v, torch.device):
            return word(DEVICE, 1)
        if isinstance(v, torch.Generator):
            return word(GENERATOR)
        if isinstance(v, torch.dtype) and v in DTYPES:
            return word(INTEGER) + struct.pack("<q", DTYPES[v])
        if isinstance(v, torch.memory_format):
            return word(INTEGER) + struct.pack("<q", MEMORY_FORMATS[v])
        if isinstance(v, int) or v == torch.strided:
            return word(INTEGER) + struct.pack("<q", 0 if v == torch.strided else v)
        raise CannotTravel(f"{v!r} for {type}")

    def output(self, expected):
        if (expected.layout != torch.strided or expected.is_quantized or expected.is_nested or expected._is_zerotensor()
                or expected.dtype not in DTYPES):
            raise CannotTravel(str(expected.layout))
        fresh = torch.empty_strided(expected.size(), expected.stride(), dtype=expected.dtype)
        fresh = torch.conj(fresh) if expected.is_conj() else fresh
        fresh = torch._neg_view(fresh) if expected.is_neg() else fresh
        offset = self.executor.reserve(fresh.untyped_storage().nbytes())
        self.outputs.append((fresh, offset, expected))
        return self.executor.define(fresh, offset)

    def expect(self, returns):
        for value, declared in zip(returns, self.schema.returns):
            if declared.alias_info is not None and declared.alias_info.is_write:
                self.results += word(ALIAS)
            elif isinstance(value, torch.Tensor):
                self.results += self.output(value)
            elif isinstance(value, (list, tuple)) and all(isinstance(t, torch.Tensor) for t in value):
                self.results += word(LIST, TENSORS, id=len(value)) + b"".join(self.output(t) for t in value)
            else:
                self.results += word(NONE)

    def run(self, generator):
        flags = HAS_GENERATOR if generator else 0
        head = struct.pack("<IHHII", self.executor.op_id(self.schema.name, self.schema.overload_name), len(self.schema.arguments),
                           len(self.schema.returns), flags, 0)
        return self.executor.execute(OP_RUN, head + self.body + self.results + (struct.pack("<QQQ", 1, 2, 3) if generator else b""))

    def written(self):
        """(what the executor left, what PyTorch left) for each argument that the op writes."""
        for v, a in zip(self.arguments, self.schema.arguments):
            if a.alias_info is None or not a.alias_info.is_write:
                continue
            for t in v if isinstance(v, (list, tuple)) else [v]:
                if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata in self.storages:
                    yield self.executor.read(t, self.storages[t.untyped_storage()._cdata]), t


def all_arguments(func, args, kwargs):
    declared = func._schema.arguments
    return [args[i] if i < len(args) else kwargs.get(a.name, a.default_value) for i, a in enumerate(declared)]


class Shadow(TorchDispatchMode):
    """Runs each op here and in the executor. `wrong` maps an op to what was wrong with it; `counts` says what was compared and what left out."""

    def __init__(self, executor, tolerance, ignore=()):
        super().__init__()
        self.executor, self.tolerance, self.ignore = executor, tolerance, set(ignore)
        self.counts, self.wrong = collections.Counter(), collections.defaultdict(list)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        schema = func._schema
        name = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
        if name not in self.executor.ops or name in self.ignore:
            self.counts["not listed"] += 1
            return func(*args, **(kwargs or {}))
        record = self.attempt(name, lambda: Record(self.executor, func, all_arguments(func, args, kwargs or {})))
        result = func(*args, **(kwargs or {}))
        if record:
            self.attempt(name, lambda: self.compare(name, record, result, torch.Tag.nondeterministic_seeded in func.tags))
        return result

    def attempt(self, name, ours):
        """What goes wrong on our side is noted, never raised: an exception that leaves the mode is PyTorch's own."""
        try:
            return ours()
        except CannotTravel:
            self.counts["left out"] += 1
        except Exception as e:
            self.wrong[name].append(repr(e))

    def compare(self, name, record, result, random):
        returns = record.schema.returns
        record.expect([] if not returns else [result] if len(returns) == 1 else result)
        answer = record.run(random)
        if answer.code:
            self.wrong[name].append(f"{answer.code} {answer.text.decode()}")
            return
        self.counts["random" if random else "compared"] += 1
        if random:  # other numbers by design
            return
        pairs = [(self.executor.read(t, offset), expected) for t, offset, expected in record.outputs]
        for got, expected in [*pairs, *record.written()]:
            try:
                torch.testing.assert_close(got, expected, rtol=self.tolerance, atol=self.tolerance, equal_nan=True)
            except AssertionError as e:
                self.wrong[name].append(f"{expected.dtype} {tuple(expected.shape)}: {e}".splitlines()[0])
