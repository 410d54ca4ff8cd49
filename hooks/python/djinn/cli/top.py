"""`djinn top`: what the sessions of a server do now. Rates are the difference between two polls; the screen is redrawn in place with ANSI codes, so that
any terminal will do. Keys: q or Ctrl-C ends it."""
import contextlib
import select
import shutil
import sys
import time

from . import Problem, _show
from ._parts import ask, endpoint

HELP = "show what the sessions of a server do, refreshing"
HEADS = ("SESSION", "PHASE", "MODULE", "OPS/S", "BYTES/S", "MEMORY", "BY CLASS", "QUEUE", "BUSY")
RIGHT = ("OPS/S", "BYTES/S", "MEMORY", "QUEUE", "BUSY")
CLASSES = {"persistent_weight": "weights", "ephemeral_activation": "activations", "stateful_kv_cache": "kv", "gradient": "gradients",
           "optimizer_state": "optimizer", "input": "input", "other": "other"}


def arguments(parser):
    parser.add_argument("--server", metavar="ENDPOINT", help="default: DJINN_SERVER, else the local server")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two polls (default 1)")
    parser.add_argument("--once", action="store_true", help="two polls, one print, no screen")


def classes(memory):
    largest = sorted(memory.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{CLASSES.get(name, name)} {_show.size(n)}" for name, n in largest) or "–"


class Rates:
    """Of one session, from two answers of the server; from its beginning when there was none before."""

    def __init__(self, now, before):
        def delta(field):
            return max(0, now[field] - (before[field] if before else 0))
        self.nanoseconds = delta("open_nanoseconds") or 1
        self.ops, self.bytes = (delta(f) * 1e9 / self.nanoseconds for f in ("ops", "bytes"))
        self.busy = min(delta("execute_nanoseconds"), self.nanoseconds)


def lines(stats, before, width=None):
    earlier = {s["session"]: s for s in before["sessions"]} if before else {}
    rates = {s["session"]: Rates(s, earlier.get(s["session"])) for s in stats["sessions"]}
    sessions = sorted(stats["sessions"], key=lambda s: -rates[s["session"]].busy / rates[s["session"]].nanoseconds)
    rows = []
    for s in sessions:
        r, m = rates[s["session"]], s["meaning"]
        rows.append((f"{s['session']} {m['name'] or _show.program(s['program'], 24)}", _show.phase(s), m["module"] or "–", _show.scaled(r.ops),
                     _show.size(r.bytes) + "/s", _show.size(s["memory_bytes"]), classes(m["memory"]), s["queued"], _show.share(r.busy, r.nanoseconds)))
    memory = {}
    for s in sessions:
        for name, n in s["meaning"]["memory"].items():
            memory[name] = memory.get(name, 0) + n
    rows.append((f"all {len(sessions)}", "", "", _show.scaled(sum(r.ops for r in rates.values())),
                 _show.size(sum(r.bytes for r in rates.values())) + "/s", _show.size(sum(s["memory_bytes"] for s in sessions)), classes(memory),
                 sum(s["queued"] for s in sessions), ""))
    head = (f"djinn-gpu-server {stats['version']} (pid {stats['pid']}): {len(sessions)} sessions, {stats['sessions_ended']} ended, "
            f"leases {_show.size(stats['memory_leased'])} of {_show.size(stats['memory_total'])}")
    return [head, "", *_show.table(rows, HEADS, RIGHT, width)]


@contextlib.contextmanager
def screen():
    """The alternate screen without a cursor, and keys as they are pressed where stdin is a terminal; everything is put back however it ends."""
    saved = None
    if sys.stdin.isatty():
        import termios
        import tty
        saved = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        if saved:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def quit_pressed(seconds):
    """Waits; True when it was ended by the key."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0] and sys.stdin.read(1) in ("q", "Q", ""):
            return True
    return False


def refresh(options):
    before = None
    with screen():
        while True:
            columns, rows = shutil.get_terminal_size((120, 40))
            try:
                stats = ask(options, "--stats")
                text = lines(stats, before, columns)
                before = stats
            except Problem as problem:  # a server that is started again comes back
                text, before = [f"{endpoint(options)}: {problem}"], None
            sys.stdout.write("\x1b[H" + "".join(line[:columns] + "\x1b[K\n" for line in text[:rows - 1]) + "\x1b[J")
            sys.stdout.flush()
            if quit_pressed(options.interval):
                return 0


def main(options):
    if not 0.1 <= options.interval <= 3600:
        raise Problem("--interval is between 0.1 and 3600 seconds")
    if not options.once:
        try:
            return refresh(options)
        except KeyboardInterrupt:
            return 0
    before = ask(options, "--stats")
    time.sleep(options.interval)
    print("\n".join(lines(ask(options, "--stats"), before)))
    return 0
