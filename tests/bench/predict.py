"""Is `djinn doctor` right? The same program recorded once on this machine and then run for real under emulated networks; the steady part's time as it was
predicted from the recording (hooks/python/djinn/cli/_predict.py) beside what was measured. `predict.py [--cases gpt,gpt_item,decode] [--rtt 0.1,1,30]`.

Both are medians: of `--rounds` recordings and of as many real runs, which take turns, because the speed of a virtual machine moves.
"""
import argparse
import json
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "hooks" / "python")]
from djinn.cli import _predict, _record
from harness import Server, run

# Units of the steady part: about a second without a network.
REPEAT = dict(gpt=40, gpt_item=40, decode=150, cnn_item=60)
PROGRAM = """
import sys, time
sys.path[:0] = [{bench!r}, {tests!r}]
import torch, cases
torch.set_num_threads(1)
case = cases.CASES[{case!r}]("cuda")
for _ in range({warm}):
    case.once()
torch.cuda.synchronize()
marks = [time.perf_counter_ns()]
for _ in range({repeat}):
    case.once()
    marks.append(time.perf_counter_ns())
torch.cuda.synchronize()
print("STEADY", *marks, time.perf_counter_ns())
"""


def steady(server, case, repeat, **environment):
    """Nanoseconds of perf_counter at which each unit of the steady part of a run began, the last returned, and everything was executed."""
    program = PROGRAM.format(bench=str(HERE), tests=str(HERE.parent), case=case, warm=max(5, repeat // 5), repeat=repeat)
    done = run(program, server, timeout=300, DJINN_SUMMARY="off", **environment)
    return [int(n) for n in next(line for line in done.out.splitlines() if line.startswith("STEADY")).split()[1:]]


def times_of(marks, nanoseconds=1.0):
    """Seconds per unit: on average, to the last one's execution; and of the median unit, which says something where each unit waits for its end."""
    units = [b - a for a, b in zip(marks, marks[1:-1])]
    return dict(total=(marks[-1] - marks[0]) / len(units) / nanoseconds, unit=statistics.median(units) / nanoseconds)


def predictions(server, case, repeat, milliseconds, folder):
    """times_of() the steady part of one recorded run, as it would be at each round-trip time."""
    file = pathlib.Path(folder) / "record"
    # the emulator without a delay: what it costs itself (a copy, another thread that must wake up) is no network's, and the real runs pay it
    marks = steady(server, case, repeat, DJINN_RECORD=file, DJINN_LINK="rtt=0ms")
    program = _predict.Program(_record.read(file))
    return {rtt: times_of(program.play(_predict.Network(rtt / 1e3), marks).marks) for rtt in milliseconds}


def compare(case, milliseconds, rounds, repeat=None):
    """For each round-trip time what was predicted, what was measured (medians of the rounds, seconds per unit), and the error; `unit_error` is that of the median unit."""
    repeat = repeat or REPEAT[case]
    predicted, measured = {rtt: [] for rtt in milliseconds}, {rtt: [] for rtt in milliseconds}
    with Server("--threads", 1) as server, tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for rtt, times in predictions(server, case, repeat, milliseconds, folder).items():
                predicted[rtt].append(times)
            for rtt in milliseconds:
                measured[rtt].append(times_of(steady(server, case, repeat, DJINN_LINK=f"rtt={rtt}ms"), 1e9))
    median = lambda all_times, key: statistics.median(t[key] for t in all_times)
    rows = []
    for rtt in milliseconds:
        p, m = predicted[rtt], measured[rtt]
        rows.append(dict(case=case, rtt_ms=rtt, predicted=median(p, "total"), measured=median(m, "total"), error=median(p, "total") / median(m, "total") - 1,
                         unit_error=median(p, "unit") / median(m, "unit") - 1))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", default="gpt_item,gpt,decode", type=lambda s: s.split(","))
    parser.add_argument("--rtt", default="0.1,1,30", type=lambda s: [float(x) for x in s.split(",")])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    rows = []
    for case in options.cases:
        for row in compare(case, options.rtt, options.rounds):
            rows.append(row)
            print(f"{case:9s} rtt {row['rtt_ms']:5.1f} ms  predicted {row['predicted'] * 1e3:8.3f} ms  measured {row['measured'] * 1e3:8.3f} ms  "
                  f"error {row['error'] * 100:+6.1f} %  of the median unit {row['unit_error'] * 100:+6.1f} %", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
