"""A part of the OpInfo sweep through real processes (opinfo_client.py), the same at each run: of every dtype one shard with the shape cache and another
without. The shards of the dtypes differ, so that together they hold every entry of op_db. Each gives on the device what it gives on the CPU, forward,
backward, in place and with out=, or stands in known.py with the reason. The whole: scripts/conformance opinfo."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server
from known import reason
from sweep import run_shard

SHARDS = 12


class OpInfo(Case):
    def part(self, dtype, shard, rows_min):
        with Server() as server:
            rows = run_shard(server, dtype, shard, SHARDS) + run_shard(server, dtype, (shard + SHARDS // 2) % SHARDS, SHARDS, perf="no_shape_cache")
        bad = [f"{r['entry']} {r['direction']}: {r['status']}: {r['detail']}" for r in rows if r["status"] != "ok" and not reason(r)]
        self.assertFalse(bad, "\n".join(bad))
        self.assertGreaterEqual(len(rows), rows_min)
        self.assertGreater(sum(r["samples"] for r in rows), 5 * rows_min)

    def test_float32(self):
        self.part("float32", 0, 240)

    def test_float64(self):
        self.part("float64", 1, 120)

    def test_bfloat16(self):
        self.part("bfloat16", 2, 120)

    def test_float16(self):
        self.part("float16", 3, 120)

    def test_complex64(self):
        self.part("complex64", 4, 80)

    def test_int64(self):
        self.part("int64", 5, 50)

    def test_bool(self):
        self.part("bool", 0, 40)


if __name__ == "__main__":
    unittest.main(verbosity=2)
