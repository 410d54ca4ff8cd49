"""`djinn run -- python train.py`: the program under Djinn, with the environment that README.md's table explains."""
import os
import shutil

from . import Problem
from ._parts import program_environment

HELP = "run a CUDA program on Djinn's device"


def arguments(parser):
    parser.usage = "djinn run [--server ENDPOINT] [--level op|call] [--] PROGRAM [ARGUMENT ...]"
    parser.add_argument("--server", metavar="ENDPOINT", help="tcp://HOST:5555 or ipc:///PATH (default: DJINN_SERVER, else a local server)")
    parser.add_argument("--level", choices=("op", "call"), help="force the level (default: what the server's device can do)")
    parser.add_argument("program", nargs="...", help="what to run, and its arguments")


def main(options):
    command = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not command:
        raise Problem("no program is given (djinn run -- python train.py)")
    chosen = {name: value for name, value in (("DJINN_SERVER", options.server), ("DJINN_LEVEL", options.level)) if value}
    env = program_environment(**chosen)
    if not shutil.which(command[0], path=env.get("PATH")):
        raise Problem(f"{command[0]} is not a program on the PATH")
    try:
        os.execvpe(command[0], command, env)
    except OSError as e:
        raise Problem(f"{command[0]} cannot be started: {e.strerror}") from None
