"""The client's own counters, read inside a client process through libdjinn.so's exported `djinn_client_counters`: what benches and tests of round trips use.
Mirrors interpose/batch/counters.hpp."""
import ctypes


class Counters:
    class Block(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in (
            "size", "ops", "cache_hits", "aborted", "server_first", "calls", "posted", "frames", "bytes", "round_trips", "stalls", "stall_nanoseconds",
            "dropped", "entry_launches")]

    def __init__(self):
        self.read_block = ctypes.CDLL(None).djinn_client_counters
        self.read_block.argtypes = [ctypes.POINTER(self.Block)]

    def read(self):
        block = self.Block(size=ctypes.sizeof(self.Block))
        if self.read_block(ctypes.byref(block)) != 0:
            raise RuntimeError("djinn_client_counters refused the block: counters.py and counters.hpp differ")
        return {name: getattr(block, name) for name, _ in self.Block._fields_ if name != "size"}
