"""Runs a program with a recording (DJINN_RECORD), for the commands that read one: every process of it that used a device leaves a file."""
import pathlib
import subprocess
import tempfile

from . import Problem, _parts, _record


def arguments(parser):
    parser.add_argument("--from", dest="record", action="append", default=[], metavar="RECORD", help="read this recording (DJINN_RECORD wrote it) instead of running a program")
    parser.add_argument("--record", dest="keep", metavar="FILE", help="keep the recording there (%%p: the number of the process)")
    parser.add_argument("--server", help="run on this server (default: DJINN_SERVER, or a local one)")
    parser.add_argument("program", nargs="*", metavar="CMD", help="the program and its arguments, after --")


def records(options):
    """The recordings, and the program's exit status (0 where none was run)."""
    if options.record:
        if options.program:
            raise Problem("either --from or a program, not both")
        return [_record.read(path) for path in options.record], 0
    if not options.program:
        raise Problem("name a program after --, or a recording with --from")
    with tempfile.TemporaryDirectory(prefix="djinn-record-") as folder:
        place = pathlib.Path(options.keep or f"{folder}/%p")
        before = {f: f.stat().st_mtime_ns for f in _files(place)}
        server = {"DJINN_SERVER": options.server} if options.server else {}
        try:
            status = subprocess.run(options.program, env=_parts.program_environment(DJINN_RECORD=place.absolute(), **server)).returncode
        except OSError as e:
            raise Problem(f"{options.program[0]} cannot be started: {e.strerror}") from None
        except KeyboardInterrupt:  # the program had it too; what it did until then is told
            status = 130
        fresh = [f for f in _files(place) if before.get(f) != f.stat().st_mtime_ns]
        if not fresh:
            raise Problem(f"the program used no device (status {status}): nothing was recorded")
        return [_record.read(f) for f in fresh], status


def _files(place):
    return sorted(place.parent.glob(place.name.replace("%p", "[0-9]*")))
