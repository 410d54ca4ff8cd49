"""docs/compatibility.md out of results: `report.py FOLDER` reads what scripts/conformance wrote there (suites*.json, opinfo*.json) and prints the page.
What differs from a GPU is prose of ours (DIFFERENCES); everything else comes from the runs, failures included."""
import collections
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from known import KNOWN, reason

DTYPES = ["float32", "float64", "bfloat16", "float16", "complex64", "int64", "bool"]
DIRECTIONS = ["forward", "backward", "inplace", "out"]
TITLES = {
    "models": "Models",
    "training": "Training machinery",
    "cuda": "torch.cuda",
    "cuda_memory": "Memory",
    "cuda_ipc": "Memory and events between processes",
    "cuda_graphs": "CUDA graphs",
    "cuda_profiler": "Profiler",
    "devices": "Several devices",
    "random": "Randomness",
    "errors": "Errors",
    "meaning": "Phases and residencies",
}
# (what, why and what one sees)
DIFFERENCES = [
    ("Kernels of the program's own: Triton, `torch.compile` with inductor, NVRTC, jiterator, CUDA C++ extensions",
     "the device has no GPU's instruction set; a launch is refused with the kernel's name. `torch.compile` with `eager` and `aot_eager` works"),
    ("Rounding", "results are those of PyTorch's CPU kernels with at least CUDA's inner precision; the last digits of sums and products differ from a "
                 "GPU's, as they differ between GPUs. TF32 is accepted as a setting and not imitated"),
    ("Random numbers", "[randomness.md](randomness.md) says per op what is drawn as on CUDA; derived, not verified on hardware"),
    ("Time", "events, the profiler and utilization tell the server's times on a CPU. Streams keep their order and do not overlap"),
    ("torch.profiler", "where a GPU's trace has kernels, this one has ops, copies and fills with the server's times, all in one stream; a CUDA graph's launch "
                       "is one piece of work. Missing: grids, occupancy and hardware counters, records of events and of the driver's calls"),
    ("Memory between processes", "both need the same server. Recording an event that other processes may know of (`interprocess=True`, and PyTorch's own when "
                                 "it sends a tensor) waits for the work before it; on a GPU it does not"),
    ("Device properties", "a small device of compute capability 12.0 that names itself \"Djinn CPU device\"; libraries that choose kernels by them choose "
                          "such a device's"),
    ("2:4 semi-structured sparsity (cuSPARSELt), communicators of several processes (NCCL), child and conditional nodes of CUDA graphs, graphs that allocate",
     "not built; refused by name"),
    ("Reads outside of a tensor in library kernels", "CUDA may return garbage or a sticky error; here the server refuses or computes what the CPU's kernel "
                                                     "does with the addresses, never outside the session's own memory"),
]


def load(folder, prefix):
    return [json.loads(p.read_text()) for p in sorted(folder.glob(f"{prefix}*.json"))]


def line(*cells):
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def outcome(row):
    return "ok" if row["status"] == "ok" else "known" if reason(row) else "fails"


def operator_counts(run):
    print(f"\nPyTorch {run['torch']}" + (f", `DJINN_PERF={run['perf']}`" if run["perf"] else "") + f": {len({r['entry'] for r in run['rows']})} entries, "
          f"{sum(r['samples'] for r in run['rows']):,} samples, {run['seconds'] / 60:.0f} minutes with {run['jobs']} jobs.\n")
    print(line("dtype", "direction", "equal", "reviewed", "failing", "samples", "of them bit for bit"))
    print("|---|---|---|---|---|---|---|")
    for dtype in DTYPES:
        for direction in DIRECTIONS:
            rows = [r for r in run["rows"] if r["dtype"] == dtype and r["direction"] == direction]
            if not rows:
                continue
            count, samples = collections.Counter(map(outcome, rows)), sum(r["samples"] for r in rows)
            print(line(dtype, direction, count["ok"], count["known"], count["fails"], samples, f"{sum(r['bitwise'] for r in rows) / max(samples, 1):.2%}"))
    lost = [r for r in run["rows"] if outcome(r) == "fails"]
    for r in lost:
        print(f"\nFailing: `{r['entry']}` {r['dtype']} {r['direction']}: {r['detail'][:160]}")


def operator_groups(runs):
    """Entries by what they were compared in: most of them share a few patterns."""
    seen = collections.defaultdict(set)
    for r in (r for run in runs for r in run["rows"] if r["samples"] and outcome(r) == "ok"):
        seen[r["entry"]].add((DIRECTIONS.index(r["direction"]), DTYPES.index(r["dtype"])))
    groups = collections.defaultdict(list)
    for entry, pattern in seen.items():
        groups[frozenset(pattern)].append(entry)
    print("\n<details><summary>Every entry, by the dtypes and directions in which it was compared and equal</summary>\n")
    for pattern, entries in sorted(groups.items(), key=lambda g: -len(g[1])):
        parts = []
        for i, direction in enumerate(DIRECTIONS):
            dtypes = [DTYPES[d] for k, d in sorted(pattern) if k == i]
            if dtypes:
                parts.append(f"{direction} in {', '.join(dtypes)}" if i < 2 else direction)
        print(f"* **{'; '.join(parts)}**: {', '.join(sorted(entries))}")
    print("\n</details>")


def operators(runs):
    print("## Operators\n\nEach entry of `torch.testing`'s op_db in every dtype that both CPU and CUDA support, all samples: the device through real processes "
          "against CPU PyTorch in the same process, with assert_close's defaults or the entry's own tolerances. What is drawn is compared in distribution, "
          "uninitialised results in shape and dtype.")
    for run in runs:
        operator_counts(run)
    print("\nReviewed, because the difference is CUDA's or PyTorch's own:\n")
    print(line("entry", "dtypes", "directions", "why"))
    print("|---|---|---|---|")
    for entry, dtypes, directions, why in KNOWN:
        print(line(f"`{entry}`", "all" if dtypes == "*" else dtypes, directions, why))
    operator_groups(runs)


def programs(runs):
    rows = {}
    for run in runs:
        rows.update({(r["suite"], r["case"]): r for r in run["rows"]})
    for suite in [s for s in TITLES if any(k[0] == s for k in rows)] + sorted({k[0] for k in rows} - set(TITLES)):
        print(f"\n## {TITLES.get(suite, suite)}\n")
        print(line("program", "result"))
        print("|---|---|")
        for r in (r for k, r in rows.items() if k[0] == suite):
            said = r["detail"].splitlines()[-1][:120] if r["detail"] else ""
            print(line(r["shows"], r["status"] + (f": {said}" if said and r["status"] != "ok" else "")))


def main():
    folder = pathlib.Path(sys.argv[1])
    sweeps, suites = load(folder, "opinfo"), load(folder, "suites")
    if not sweeps or not suites:
        sys.exit(f"report.py: {folder} has no results; run scripts/conformance first")
    print("# What works\n\nWritten by `scripts/conformance report` out of a run of `scripts/conformance`: every program below ran on the CPU device through real "
          "processes, and was compared with CPU PyTorch or with what CUDA documents.\n")
    versions = sorted({r["torch"] for r in sweeps + suites})
    packages = "; ".join(sorted({f"{k} {v}" for r in suites for k, v in r.get("packages", {}).items()}))
    print(f"PyTorch {' and '.join(versions)}. {packages}\n")
    print("## What differs from a GPU\n")
    print(line("what", "why"))
    print("|---|---|")
    for what, why in DIFFERENCES:
        print(line(what, why))
    print()
    operators(sweeps)
    programs(suites)


if __name__ == "__main__":
    main()
