"""What meaning buys: the same programs blind (call level, nothing said), annotated (call level, each call said to be its op's) and at op level, over emulated
round-trip times: messages, bytes, round trips and stalls per step, as counted. `ablation.py [--json FILE] [--plots FOLDER] [--models gpt2,…] [--steps N]`.

At call level the server validates every call and computes none (`--check`, DJINN_LEVEL=call): no CPU runs PyTorch's kernels. So the time of a step is measured
at op level only. For the other two it is modelled, and called so: the recorded run of the annotated program is played over the network
(hooks/python/djinn/cli/_predict.py), where the calls of an op together take as long as the op took at op level, by its name, module and phase; blind is the same
without the records that say what is meant.
"""
import argparse
import bisect
import collections
import json
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "hooks" / "python")]
from bench import machine
from djinn.cli import _predict, _record
from harness import Server, run

CLIENT = HERE / "ablation_client.py"
MODES = dict(blind=(("--check",), dict(DJINN_LEVEL="call", DJINN_MEANING="off")),
             annotated=(("--check",), dict(DJINN_LEVEL="call")),
             op=((), {}))
RTTS = (0.0, 0.1, 1.0, 30.0)  # milliseconds
WORKS = dict(gpt2=("train", "generate"), llama=("train", "generate"), bert=("train",))
COUNTS = ("frames", "bytes", "round_trips", "stalls", "ops", "calls", "posted")


def client(mode, model, work, steps, rtt=0.0, record=None):
    options, environment = MODES[mode]
    with Server(*options, "--threads", 1) as server:
        done = run(CLIENT, server, [model, work, steps], timeout=900, DJINN_SUMMARY="off", OMP_NUM_THREADS=1, **environment,
                   **({"DJINN_LINK": f"rtt={rtt}ms"} if rtt else {}), **({"DJINN_RECORD": str(record)} if record else {}))
    return json.loads(done.out.strip().splitlines()[-1])


# What call level has an op of its own for, and op level sends as something else that does the same.
SAME = {"aten::zero_": "fill", "aten::fill_": "fill", "aten::fill_.Scalar": "fill", "aten::index_select": "aten::embedding"}


def durations(record, begin):
    """Seconds that an op takes at op level once the program is warm (from `begin` on, of the recording's clock): by name, module and phase; by name where no
    module is known."""
    exact, by_name = collections.defaultdict(list), collections.defaultdict(list)
    for p in record.posted:
        if p.time >= begin and p.ticket in record.worked and p.name:
            w = record.worked[p.ticket]
            exact[p.name, p.module, p.phase].append((w.end - w.begin) / 1e9)
            by_name[p.name].append((w.end - w.begin) / 1e9)
    mean = lambda table: {k: statistics.fmean(v) for k, v in table.items()}
    return mean(exact), mean(by_name)


class CallLevel(_predict.Program):
    """An annotated recording whose calls take as long as their ops took at op level: the first call of an op takes all of it. `blind`: without what says so."""

    def __init__(self, record, times, blind):
        super().__init__(record)
        exact, by_name = times
        self.unknown = collections.Counter()
        pending, self.service = None, {}
        for p in record.posted:
            if p.ticket in record.meant:
                pending = record.meant[p.ticket]
            elif pending and p.name:
                name, module, phase = pending
                seconds = exact.get((name, module, phase), by_name.get(name, by_name.get(SAME.get(name))))
                if seconds is None:
                    self.unknown[name or f"no op: {p.name}"] += 1
                self.service[p.ticket], pending = seconds or 0.0, None
        if blind:
            self.leave_out(lambda p: _predict.MEANING[0] <= p.opcode <= _predict.MEANING[1])

    def leave_out(self, unwanted):
        """As if it had not been posted: who waited for it waits for what came before."""
        kept = sorted(p.ticket for _, kind, p in self.events if kind == 0 and not unwanted(p))
        last_kept = lambda ticket: kept[bisect.bisect_right(kept, ticket) - 1] if kept and kept[0] <= ticket else 0
        self.events = [(time, kind, e if kind == 0 else e._replace(ticket=last_kept(e.ticket))) for time, kind, e in self.events
                       if kind != 0 or not unwanted(e)]


def modelled(folder, model, work, steps):
    """{mode: {rtt: seconds per step}}, and the ops that op level did not have."""
    op_file, call_file = pathlib.Path(folder) / "op", pathlib.Path(folder) / "call"
    warm = client("op", model, work, steps, record=op_file)["marks"][0]
    marks = client("annotated", model, work, steps, record=call_file)["marks"]
    times, record = durations(_record.read(op_file), warm), _record.read(call_file)
    answer, unknown = {}, {}
    for mode in ("blind", "annotated"):
        program = CallLevel(record, times, mode == "blind")
        unknown = dict(program.unknown)
        answer[mode] = {}
        for rtt in RTTS:
            begin, end = program.play(_predict.Network(rtt / 1e3), marks).marks
            answer[mode][rtt] = (end - begin) / steps
    return answer, unknown


def rows_of(model, work, steps):
    many = steps if work == "train" else 5 * steps  # a token is soon over
    with tempfile.TemporaryDirectory(prefix="djinn-ablation-") as folder:
        model_times, unknown = modelled(folder, model, work, many)
    for mode in MODES:
        for rtt in RTTS:
            few = many if rtt < 10 else steps
            got = client(mode, model, work, few, rtt)
            row = dict(model=model, work=work, mode=mode, rtt_ms=rtt, steps=few, **{k: round(got[k], 3) for k in COUNTS})
            if mode == "op":
                row["measured_ms"] = round(got["seconds"] * 1e3, 3)
            else:
                row["modelled_ms"], row["ops_without_a_time"] = round(model_times[mode][rtt] * 1e3, 3), unknown
            print(f"{model:6s} {work:8s} {mode:9s} rtt {rtt:5.1f} ms  messages {row['frames']:7.1f}  bytes {row['bytes']:9.0f}  round trips {row['round_trips']:5.2f}  "
                  f"stalls {row['stalls']:5.2f}  {'measured' if mode == 'op' else 'modelled'} {row.get('measured_ms', row.get('modelled_ms')):9.2f} ms", flush=True)
            yield row


# ---- plots: plain SVG, so that the page needs nothing ----

COLOURS = dict(blind="#b0413e", annotated="#d9a441", op="#3b7a57")


def bars(title, groups, value, unit, log=True):
    """Grouped bars, one per mode; the axis is logarithmic from 1 up."""
    import math
    width, height, left, top = 110 * len(groups) + 90, 260, 60, 40
    top_value = max(max(value(g, m) for m in MODES) for g in groups)
    scale = (lambda v: math.log10(max(v, 1)) / math.log10(max(top_value, 10))) if log else (lambda v: v / top_value)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + 70}" font-family="sans-serif" font-size="12">',
           f'<rect width="100%" height="100%" fill="white"/><text x="{left}" y="20" font-size="14">{title}</text>']
    for i, g in enumerate(groups):
        for j, mode in enumerate(MODES):
            v = value(g, mode)
            h, x = scale(v) * (height - top - 20), left + 110 * i + 30 * j
            out.append(f'<rect x="{x}" y="{height - h:.1f}" width="26" height="{max(h, 1):.1f}" fill="{COLOURS[mode]}"/>'
                       f'<text x="{x + 13}" y="{height - h - 4:.1f}" text-anchor="middle" font-size="10">{v:,.4g}</text>')
        out.append(f'<text x="{left + 110 * i + 43}" y="{height + 18}" text-anchor="middle">{g}</text>')
    for j, mode in enumerate(MODES):
        out.append(f'<rect x="{left + 120 * j}" y="{height + 36}" width="12" height="12" fill="{COLOURS[mode]}"/><text x="{left + 120 * j + 18}" y="{height + 47}">{mode}</text>')
    out.append(f'<text x="8" y="{height - 80}" transform="rotate(-90 16 {height - 80})">{unit}</text></svg>')
    return "\n".join(out) + "\n"


def plots(result, folder):
    folder.mkdir(parents=True, exist_ok=True)
    at = {(f"{r['model']} {r['work']}", r["mode"], r["rtt_ms"]): r for r in result["rows"]}
    groups = list(dict.fromkeys(g for g, _, _ in at))
    for name, title, unit, value in (
            ("messages", "Messages per step, RTT 0", "messages", lambda g, m: at[g, m, 0.0]["frames"]),
            ("bytes", "Bytes per step, RTT 0 (logarithmic)", "bytes", lambda g, m: at[g, m, 0.0]["bytes"])):
        (folder / f"ablation-{name}.svg").write_text(bars(title, groups, value, unit, log=name == "bytes"))
    time = lambda r: r.get("measured_ms", r.get("modelled_ms"))
    for rtt in RTTS:
        title = f"Milliseconds per step at RTT {rtt:g} ms (logarithmic; op level measured, the others modelled)"
        (folder / f"ablation-time-{rtt:g}ms.svg").write_text(bars(title, groups, lambda g, m: time(at[g, m, rtt]), "ms"))


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/ablation.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", default=None)
    parser.add_argument("--plots", default=None, help="a folder for SVG files")
    parser.add_argument("--models", default=",".join(WORKS), type=lambda s: s.split(","))
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    result = dict(machine=machine(), rtt_ms=RTTS, rows=[])
    for model in options.models:
        for work in WORKS[model]:
            result["rows"] += rows_of(model, work, options.steps)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    if options.plots:
        plots(result, pathlib.Path(options.plots))


if __name__ == "__main__":
    main()
