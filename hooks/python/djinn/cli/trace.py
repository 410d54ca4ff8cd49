"""Runs a program with a recording and draws one timeline of it, which ui.perfetto.dev and chrome://tracing open: the client's threads with the ops that they post and
the waits with their Python lines, the wire with its frames, the server's work by the client's clock, and arrows from each op to where it was executed."""
import json
import sys

from . import _record, _recording
from ._parts import write

HELP = "run a program and write a timeline of client, wire and server (Perfetto)"

# A post is a moment; so long is its slice, if the next thing leaves room (microseconds).
POST_MICROSECONDS = 1.0
CLIENT, WIRE, SERVER = 1, 2, 3  # tracks of one program; the next program's are ten further
LANE = 101  # of the wire's rows the first: no number of a track, which would make it a main thread


def arguments(parser):
    parser.add_argument("-o", "--output", default="trace.json", help="the file (default: %(default)s)")
    _recording.arguments(parser)


def main(options):
    _recording.writable(options.output)
    records, status = _recording.records(options)
    events, first = [], min(r.session.unix for r in records)
    for number, record in enumerate(records):
        events += timeline(record, 10 * number, record.session.unix - first)
    write(options.output, json.dumps(dict(displayTimeUnit="ms", traceEvents=events), ensure_ascii=False))
    ops = sum(bool(p.name) for r in records for p in r.posted)
    print(f"djinn trace: {options.output}: {ops:,} ops and calls, {sum(len(r.waited) for r in records):,} waits, {sum(len(r.sent) for r in records):,} messages; "
          "open it with ui.perfetto.dev", file=sys.stderr)
    return status


def place_text(place):
    return f"{place.file}:{place.line} {place.function}" if place else ""


def timeline(record, track, later=0):
    """The trace events of one process, ordered by time. Its session was opened so many nanoseconds after the first one."""
    base = record.session.time - later
    us = lambda ns: (ns - base) / 1e3
    acknowledged = _acknowledgements(record)
    events = []
    slice_ = lambda pid, tid, name, begin, end, cat, **args: events.append(
        dict(ph="X", pid=track + pid, tid=tid, name=name, cat=cat, ts=us(begin), dur=max(0.0, (end - begin) / 1e3), args={k: v for k, v in args.items() if v not in ("", None)}))
    following = {}
    for p in reversed(record.posted):  # the thread's next post bounds the slice
        p_end = min(p.time + int(POST_MICROSECONDS * 1e3), following.get(p.thread, p.time + int(POST_MICROSECONDS * 1e3)))
        following[p.thread] = p.time
        if not p.name:
            continue
        slice_(CLIENT, p.thread, p.name, p.time, p_end, "op", ticket=p.ticket, module=p.module, phase=p.phase, step=p.step or None, bytes=p.bytes)
        if p.ticket in record.worked:
            begin, end = _on_our_clock(record, p, acknowledged.get(p.ticket))
            slice_(SERVER, 1, p.name, begin, end, "work", ticket=p.ticket, module=p.module, phase=p.phase, step=p.step or None)
            flow = dict(name="op", cat="flow", id=track * 10**12 + p.ticket)
            events.append(dict(flow, ph="s", pid=track + CLIENT, tid=p.thread, ts=us(p.time)))
            events.append(dict(flow, ph="f", bp="e", pid=track + SERVER, tid=1, ts=us(begin)))
    for w in record.waited:
        if w.kind == "none":
            continue
        line = _record.own(w.stack)
        name = "stall" if w.kind == "credit" else f"wait: {w.name or 'server'}"
        slice_(CLIENT, w.thread, name, w.begin, w.end, "wait", ticket=w.ticket, module=w.module, line=place_text(line), stack="\n".join(map(place_text, w.stack)))
    for a in record.aborted:
        events.append(dict(ph="i", s="t", pid=track + CLIENT, tid=a.thread, name=f"aborted: {a.name}", cat="op", ts=us(a.time),
                           args=dict(why=a.why, module=a.module, line=place_text(_record.own(a.stack)))))
    lanes = []  # when each is free again: frames that are under way together lie below each other
    for f in record.sent:
        end = max(f.time, acknowledged.get(f.last, f.time))
        lane = next((i for i, free in enumerate(lanes) if free <= f.time), len(lanes))
        lanes[lane:lane + 1] = [end]
        slice_(WIRE, LANE + lane, f"tickets {f.first}-{f.last}" if f.last > f.first else f"ticket {f.first}", f.time, end, "frame", first=f.first, last=f.last, bytes=f.bytes)
    events.sort(key=lambda e: e["ts"])
    return _names(record, track, len(lanes)) + events


def _names(record, track, lanes):
    s = record.session
    names = [(CLIENT, 0, "process_name", f"{s.program} (pid {s.pid})"), (WIRE, 0, "process_name", f"wire{', ' + s.link if s.link else ''}"),
             (SERVER, 0, "process_name", f"djinn-gpu-server on {s.host}, {s.threads} threads"), (SERVER, 1, "thread_name", "device")]
    names += [(WIRE, lane, "thread_name", "frames until acknowledged") for lane in range(LANE, LANE + lanes)]
    names += [(CLIENT, thread, "thread_name", name) for thread, name in record.threads.items()]
    order = [dict(ph="M", pid=track + pid, tid=0, name="process_sort_index", ts=0, args=dict(sort_index=track + pid)) for pid in (CLIENT, WIRE, SERVER)]
    return order + [dict(ph="M", pid=track + pid, tid=tid, name=kind, ts=0, args=dict(name=name)) for pid, tid, kind, name in names]


def _acknowledgements(record):
    """When each ticket's acknowledgement arrived."""
    at, position = {}, 0
    tickets = [p.ticket for p in record.posted]
    for a in record.acknowledged:
        while position < len(tickets) and tickets[position] <= a.ticket:
            at[tickets[position]] = a.time
            position += 1
    return at


def _on_our_clock(record, posted, acknowledged):
    """The server's work in this process's time. The offset of the clocks is known to half a round trip only: no work begins before it was posted, or ends after its
    acknowledgement arrived."""
    w = record.worked[posted.ticket]
    latest = acknowledged if acknowledged is not None else w.end
    begin = min(max(w.begin, posted.time), latest)
    return begin, min(max(begin, w.end), max(begin, latest))
