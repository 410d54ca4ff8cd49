"""`djinn ps`: the sessions of a server, one a line."""
import json

from . import _show
from ._parts import ask

HELP = "list the sessions of a server"
HEADS = ("ID", "NAME", "PROGRAM", "PID", "HOST", "PHASE", "MODULE", "OPS/S", "MEMORY", "AGE")


def arguments(parser):
    parser.add_argument("--server", metavar="ENDPOINT", help="default: DJINN_SERVER, else the local server")
    parser.add_argument("--json", action="store_true", help="the server's own answer, for programs")


def row(session):
    meaning, age = session["meaning"], session["open_nanoseconds"]
    rate = _show.scaled(session["ops"] / (age / 1e9)) if age else "–"
    return (session["session"], meaning["name"] or "–", _show.program(session["program"]), session["client_pid"], session["client_host"],
            _show.phase(session), meaning["module"] or "–", rate, _show.size(session["memory_bytes"]), _show.span(age))


def main(options):
    sessions = ask(options, "--stats")["sessions"]
    if options.json:
        print(json.dumps(sessions, indent=1))
        return 0
    print("\n".join(_show.table(map(row, sessions), HEADS, right=("ID", "PID", "OPS/S", "MEMORY", "AGE"))))
    return 0
