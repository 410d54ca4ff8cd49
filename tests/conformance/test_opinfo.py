"""A part of the OpInfo sweep through real processes (opinfo_client.py): each entry gives on the device what it gives on the CPU, forward, backward, in
place and with out=, or stands in KNOWN with the reason."""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server, run
from known import reason

CLIENT = pathlib.Path(__file__).resolve().parent / "opinfo_client.py"
SHARDS = 24


class OpInfo(Case):
    def part(self, dtype, shard, rows_min):
        with Server() as server:
            done = run(CLIENT, server, [dtype, shard, SHARDS], timeout=600)
        rows = [json.loads(line) for line in done.out.splitlines()]
        self.assertTrue(rows[-1].get("end"), str(done)[-2000:])
        rows = [r for r in rows if "status" in r]
        self.assertGreaterEqual(len(rows), rows_min)
        self.assertGreater(sum(r["samples"] for r in rows), 5 * rows_min)
        bad = [f"{r['entry']} {r['direction']}: {r['status']}: {r['detail']}" for r in rows if r["status"] != "ok" and not reason(r)]
        self.assertFalse(bad, "\n".join(bad))

    def test_float32(self):
        self.part("float32", 3, 50)

    def test_int64(self):
        self.part("int64", 7, 10)

    def test_complex64(self):
        self.part("complex64", 11, 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
