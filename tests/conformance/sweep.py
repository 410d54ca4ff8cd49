"""The driver of scripts/conformance opinfo: shards of the OpInfo sweep (opinfo_client.py) run side by side through one server, their rows become a table and
JSON. A client that dies is a row of its own; what its shard had left is not run."""
import argparse
import collections
import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Server, client_environment
from known import KNOWN, reason

CLIENT = pathlib.Path(__file__).resolve().parent / "opinfo_client.py"
DTYPES = "float32,float64,bfloat16,float16,int64,bool,complex64"
SHARD_SECONDS_MAX = 3600


def run_shard(server, dtype, shard, shards, pattern="", perf=""):
    env = client_environment(server, DJINN_SUMMARY="off", **({"DJINN_PERF": perf} if perf else {}))
    command = [sys.executable, str(CLIENT), dtype, str(shard), str(shards), pattern]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SHARD_SECONDS_MAX, env=env, stdin=subprocess.DEVNULL)
        out, status, err = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as e:
        out, status, err = (e.stdout or b"").decode(), "time-out", ""
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    rows = [r for r in lines if "status" in r]
    if not lines or not lines[-1].get("end"):
        last = next((r["begin"] for r in reversed(lines) if "begin" in r), "?")
        rows.append(dict(entry=last, dtype=dtype, direction="?", samples=0, bitwise=0, status="crash", detail=f"status {status}: {err[-300:]}"))
    return rows


def table(rows):
    counts = collections.defaultdict(collections.Counter)
    for r in rows:
        outcome = r["status"] if r["status"] == "ok" else "known" if reason(r) else r["status"]
        counts[r["dtype"], r["direction"]][outcome] += 1
        counts[r["dtype"], r["direction"]]["samples"] += r["samples"]
        counts[r["dtype"], r["direction"]]["bitwise"] += r["bitwise"]
    print(f"{'dtype':10s} {'direction':10s} {'ok':>5s} {'known':>5s} {'wrong':>5s} {'error':>5s} {'crash':>5s} {'samples':>8s} {'bitwise equal':>13s}")
    for (dtype, direction), c in sorted(counts.items()):
        print(f"{dtype:10s} {direction:10s} {c['ok']:5d} {c['known']:5d} {c['wrong']:5d} {c['error'] + c['raised']:5d} {c['crash']:5d} {c['samples']:8d} {c['bitwise']:13d}")


def main():
    parser = argparse.ArgumentParser(prog="scripts/conformance opinfo", description="OpInfo through real processes: the device against CPU PyTorch.")
    parser.add_argument("--dtypes", default=DTYPES)
    parser.add_argument("--pattern", default="", help="regular expression of entries")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--shards", type=int, default=None, help="parts per dtype (default: four per job)")
    parser.add_argument("--perf", default="", help="DJINN_PERF of the clients, e.g. no_shape_cache")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    shards, begin, rows = options.shards or 4 * options.jobs, time.monotonic(), []
    with Server("--threads", options.jobs) as server, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        parts = [pool.submit(run_shard, server, dtype, k, shards, options.pattern, options.perf) for dtype in options.dtypes.split(",") for k in range(shards)]
        for part in concurrent.futures.as_completed(parts):
            rows += part.result()
            print(f"\r{sum(p.done() for p in parts)}/{len(parts)} parts, {len(rows)} rows, {time.monotonic() - begin:.0f} s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    table(rows)
    bad = [r for r in rows if r["status"] != "ok" and not reason(r)]
    for r in sorted(bad, key=lambda r: (r["entry"], r["dtype"], r["direction"])):
        print(f"{r['status']:6s} {r['entry']} {r['dtype']} {r['direction']}: {r['detail'][:200]}")
    if not options.pattern:
        seen = {r["entry"] for r in rows if r["status"] != "ok"}
        for entry, *_ in KNOWN:
            if entry not in seen:
                print(f"known.py: {entry} has nothing to excuse any more")
    if options.json:
        run = dict(torch=importlib.metadata.version("torch"), perf=options.perf, jobs=options.jobs, seconds=round(time.monotonic() - begin), rows=rows)
        pathlib.Path(options.json).write_text(json.dumps(run, indent=0) + "\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
