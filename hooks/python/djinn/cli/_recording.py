"""Runs a program with a recording (DJINN_RECORD), for the commands that read one: every process of it that used a device leaves a file."""
import glob
import os
import pathlib
import subprocess
import sys
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
        if options.program or options.keep or options.server:
            raise Problem("either --from, or a program with --record and --server")
        return [_record.read(path) for path in options.record], 0
    if not options.program:
        raise Problem("name a program after --, or a recording with --from")
    with tempfile.TemporaryDirectory(prefix="djinn-record-") as folder:
        place = _place(options.keep) if options.keep else pathlib.Path(folder, "%p")
        before = {f: f.stat().st_mtime_ns for f in _files(place)}
        status = _run(options.program, _parts.program_environment(DJINN_RECORD=place.absolute(), **({"DJINN_SERVER": options.server} if options.server else {})))
        fresh = [f for f in _files(place) if before.get(f) != f.stat().st_mtime_ns]
        if len(fresh) == 1 and options.keep and "%p" not in options.keep:
            fresh = [fresh[0].replace(options.keep)]
        if not fresh:
            raise Problem(f"nothing was recorded (status {status}): the program used no device, or Djinn's own line above says why")
        return _readable(fresh), status


def _run(program, environment):
    """The exit status, as a shell has it."""
    try:
        process = subprocess.Popen(program, env=environment)
    except OSError as e:
        raise Problem(f"{program[0]} cannot be started: {e.strerror}") from None
    while True:
        try:
            status = process.wait()
            return 128 - status if status < 0 else status
        except KeyboardInterrupt:  # the program had it too, and ends when it likes
            pass


def _readable(files):
    """Of several processes one may have been killed before it had written anything: the others are told."""
    records, problems = [], []
    for f in files:
        try:
            records.append(_record.read(f))
        except Problem as problem:
            problems.append(problem)
    if not records:
        raise problems[0]
    for problem in problems:
        print(f"djinn: {problem}", file=sys.stderr)
    return records


def _place(name):
    """Where recordings are kept. Each process of the program writes its own; where there was but one, it gets the name as it was given."""
    writable(name)
    return pathlib.Path(name if "%p" in name else name + ".%p")


def writable(file):
    """What could not be written after the program has run is said before."""
    path = pathlib.Path(file)
    if path.is_dir():
        raise Problem(f"{file} cannot be written: it is a folder")
    if not path.parent.is_dir():
        raise Problem(f"{file} cannot be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Problem(f"{file} cannot be written: permission denied")


def _files(place):
    return sorted(place.parent.glob("[0-9]*".join(map(glob.escape, place.name.split("%p")))))
