"""Runs a program with a recording and says what it costs over a network, and which of its lines make it so: those that wait for the device, copies from pageable
memory, ops that the server must run before the program can go on, stalls; and what the whole would take at other round-trip times (_predict.py has the model)."""
import collections
import json
import linecache
import pathlib
import sys

from . import _predict, _record, _recording, _show
from ._parts import write

HELP = "run a program and say which of its lines wait for the device, and what they cost over a network"

RTT_MILLISECONDS = (0.1, 1.0, 30.0)
LINES_MAX = 20  # of each table
# A pageable copy that small travels inside its command: there is nothing to win.
SMALL_BYTES = 64 << 10


def arguments(parser):
    parser.add_argument("--json", metavar="FILE", help="write all of it there")
    parser.add_argument("--bandwidth", type=float, default=0, metavar="MBIT", help="of the networks that are predicted (default: not limited)")
    _recording.arguments(parser)


def main(options):
    if options.json:
        _recording.writable(options.json)
    records, status = _recording.records(options)
    if status:
        print(f"djinn doctor: the program ended with status {status}; this is what it did until then", file=sys.stderr)
    findings = [examine(r, options.bandwidth * 125e3) for r in records]
    for f in findings:
        print(tell(f))
    if options.json:
        write(options.json, json.dumps(findings, indent=1) + "\n")
    return status


# ---- what is found ----

def examine(record, bandwidth=0.0):
    """Everything that is told, as plain data. Seconds unless a name says otherwise."""
    program = _predict.Program(record)
    played = {rtt: program.play(_predict.Network(rtt / 1e3, bandwidth)) for rtt in RTT_MILLISECONDS}
    return dict(program=record.session.program, pid=record.session.pid, complete=record.end is not None, link=record.session.link,
                round_trip=record.session.round_trip / 1e9, seconds=_seconds(record), computing=sum(program.service.values()),
                predicted={f"{rtt:g}": p.seconds for rtt, p in played.items()}, stalled={f"{rtt:g}": p.stalled for rtt, p in played.items()},
                waits=_waits(record, played), copies=_copies(record), server_first=_by_line([w for w in record.waited if w.opcode == _record.OP_QUERY]),
                aborted=_by_line(record.aborted), stalls=_stalls(record), round_trips=sum(w.kind in ("executed", "reply") for w in record.waited),
                ops=record.end.ops if record.end else sum(bool(p.name) for p in record.posted))


def _seconds(record):
    times = [p.time for p in record.posted] + [w.end for w in record.waited]
    return (max(times) - min(times)) / 1e9 if times else 0.0


def _line(stack):
    """(file, line, function, the text of the line): where the program's own code asked."""
    place = _record.own(stack)
    return (place.file, place.line, place.function, linecache.getline(place.file, place.line).strip()) if place else ("", 0, "", "")


def _row(key, **more):
    file, line, function, text = key
    return dict(file=file, line=line, function=function, text=text, **more)


def _waits(record, played):
    groups = collections.defaultdict(lambda: dict(count=0, waited=0.0, asked=collections.Counter(), cost=collections.Counter()))
    for w in record.waited:
        if w.kind == "credit" or not (w.stack or w.kind != "none"):
            continue
        g = groups[_line(w.stack)]
        g["count"] += 1
        g["waited"] += (w.end - w.begin) / 1e9
        g["asked"][w.name or "djinn"] += 1
    for rtt, p in played.items():
        for w, seconds in p.waited:
            if _line(w.stack) in groups:
                groups[_line(w.stack)]["cost"][f"{rtt:g}"] += seconds
    rows = [_row(key, count=g["count"], waited=g["waited"], asked=dict(g["asked"]), cost={f"{rtt:g}": g["cost"][f"{rtt:g}"] for rtt in played}) for key, g in groups.items()]
    return sorted(rows, key=lambda r: -r["cost"][f"{RTT_MILLISECONDS[-1]:g}"])


def _copies(record):
    groups = collections.defaultdict(lambda: [0, 0, 0])
    for c in record.copied:
        if c.direction != "on device" and not c.pinned:
            g = groups[_line(c.stack) + (c.direction, c.module)]
            g[0] += 1
            g[1] += c.bytes
            g[2] = max(g[2], c.bytes)
    rows = [_row(key[:4], direction=key[4], module=key[5], count=n, bytes=size, largest=largest) for key, (n, size, largest) in groups.items()]
    return sorted(rows, key=lambda r: -r["bytes"])


def _by_line(events):
    groups = collections.Counter((_line(e.stack), e.name, e.module, getattr(e, "why", "")) for e in events)
    return [_row(key, name=name, module=module, why=why, count=n) for (key, name, module, why), n in groups.most_common()]


def _stalls(record):
    stalls = [w for w in record.waited if w.kind == "credit"]
    return dict(count=len(stalls), seconds=sum(w.end - w.begin for w in stalls) / 1e9)


# ---- saying it ----

def duration(seconds):
    for scale, unit in ((1, "s"), (1e3, "ms")):
        if seconds * scale >= 1 or unit == "ms":
            return f"{seconds * scale:.{0 if seconds * scale >= 100 else 1 if seconds * scale >= 10 else 2}f} {unit}"


def where(row):
    if not row["line"]:
        return "(line not known)"
    return f"{_short(row['file'])}:{row['line']} {row['function']}" + (f"   {row['text']}" if row["text"] else "")


def _short(file):
    try:
        return str(pathlib.Path(file).relative_to(pathlib.Path.cwd()))
    except ValueError:
        return file


def _section(title, rows, text):
    if not rows:
        return []
    more = [f"  … and {len(rows) - LINES_MAX} more"] if len(rows) > LINES_MAX else []
    return ["", title] + [f"  {text(r)}" for r in rows[:LINES_MAX]] + more


def tell(f):
    costs = lambda r: "".join(f"{duration(r['cost'][f'{rtt:g}']):>10s}" for rtt in RTT_MILLISECONDS)
    out = [f"djinn doctor: {_show.program(f['program'], 100)} (pid {f['pid']})" + ("" if f["complete"] else " – the recording has no end: the program was killed or crashed, or lost its server")]
    out += _section("Lines that wait for the device" + " " * 8 + "times    waited" + "".join(f"{f'@{rtt:g} ms':>10s}" for rtt in RTT_MILLISECONDS), f["waits"],
                    lambda r: f"{'':32s}{r['count']:7d}{duration(r['waited']):>10s}{costs(r)}\n    {where(r)}")
    large = [c for c in f["copies"] if c["largest"] >= SMALL_BYTES]
    out += _section("Copies between pageable memory and the device (pin_memory() and non_blocking=True let the program go on; or keep them there)", large,
                    lambda c: f"{c['count']:7d} × {c['direction']}, {_show.size(c['bytes'])}: {where(c)}")
    in_module = lambda r: f" in {r['module']}" if r["module"] else ""
    out += _section("Ops that the server runs first, a round trip each (the shape of the result depends on values)", f["server_first"],
                    lambda r: f"{r['count']:7d} × {r['name']}{in_module(r)}: {where(r)}")
    out += _section("Ops that were undone and redone, because their kernel asked for a value of the device", f["aborted"],
                    lambda r: f"{r['count']:7d} × {r['name']}{in_module(r)}{' (' + r['why'] + ')' if r['why'] else ''}: {where(r)}")
    if f["stalls"]["count"]:
        out += ["", f"Stalls: {f['stalls']['count']} times, {duration(f['stalls']['seconds'])}: more was posted than the server had executed (the credit window)"]
    return "\n".join(out + ["", verdict(f)])


def verdict(f):
    times = ", ".join(f"{duration(f['predicted'][f'{rtt:g}'])} at {rtt:g} ms" for rtt in RTT_MILLISECONDS)
    text = (f"Verdict: {duration(f['seconds'])} here ({f['ops']:,} ops, {f['round_trips']:,} round trips of {duration(f['round_trip'])}, {duration(f['computing'])} computing); "
            f"predicted for other round-trip times: {times}.")
    worst = f["waits"][0] if f["waits"] else None
    far = f"{RTT_MILLISECONDS[-1]:g}"
    if worst and worst["cost"][far] > 0.2 * f["predicted"][far]:
        spot = f"{_short(worst['file'])}:{worst['line']}" if worst["line"] else "one place"
        text += (f" At {far} ms {worst['cost'][far] / f['predicted'][far]:.0%} of the time would be waiting at {spot}, {worst['count']} times: "
                 "ask for the value less often, or after more work has been posted.")
    elif f["predicted"][far] < 1.2 * f["predicted"][f"{RTT_MILLISECONDS[0]:g}"]:
        text += " The program hardly waits for the device: the network does not matter much."
    return text
