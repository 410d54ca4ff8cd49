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
begin = time.perf_counter_ns()
for _ in range({repeat}):
    case.once()
torch.cuda.synchronize()
print("STEADY", begin, time.perf_counter_ns())
"""


def steady(server, case, repeat, **environment):
    """Nanoseconds of perf_counter at which the steady part of a run began and ended."""
    program = PROGRAM.format(bench=str(HERE), tests=str(HERE.parent), case=case, warm=max(5, repeat // 5), repeat=repeat)
    done = run(program, server, timeout=300, DJINN_SUMMARY="off", **environment)
    _, begin, end = next(line for line in done.out.splitlines() if line.startswith("STEADY")).split()
    return int(begin), int(end)


def predictions(server, case, repeat, milliseconds, folder):
    """Seconds of the steady part of one recorded run: as it was, and as it would be at each round-trip time."""
    file = pathlib.Path(folder) / "record"
    marks = steady(server, case, repeat, DJINN_RECORD=file)
    program = _predict.Program(_record.read(file))
    out = {"recorded": (marks[1] - marks[0]) / 1e9}
    for rtt in milliseconds:
        begin, end = program.play(_predict.Network(rtt / 1e3), marks).marks
        out[rtt] = end - begin
    return out


def compare(case, milliseconds, rounds, repeat=None):
    """For each round-trip time the medians, in seconds per unit: predicted, measured, and the error."""
    repeat = repeat or REPEAT[case]
    predicted, measured, recorded = {}, {}, []
    with Server("--threads", 1) as server, tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for rtt, seconds in predictions(server, case, repeat, milliseconds, folder).items():
                recorded.append(seconds) if rtt == "recorded" else predicted.setdefault(rtt, []).append(seconds)
            for rtt in milliseconds:
                begin, end = steady(server, case, repeat, DJINN_LINK=f"rtt={rtt}ms")
                measured.setdefault(rtt, []).append((end - begin) / 1e9)
    rows = []
    for rtt in milliseconds:
        p, m = statistics.median(predicted[rtt]) / repeat, statistics.median(measured[rtt]) / repeat
        rows.append(dict(case=case, rtt_ms=rtt, predicted=p, measured=m, error=p / m - 1, recorded=statistics.median(recorded) / repeat))
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
                  f"error {row['error'] * 100:+6.1f} %", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
