"""The command `djinn` (scripts/djinn): one file per subcommand, found by its name. Each has `HELP` (one line), `arguments(parser)` and `main(options)`,
which returns the exit status."""
import argparse
import importlib
import pkgutil
import sys


class Problem(Exception):
    """Something that the user can mend: said in one sentence, without a traceback."""


def commands():
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="djinn", description="Runs CUDA programs on Djinn's devices, and shows what they do there.")
    parts = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name in commands():
        modules[name] = importlib.import_module(f"{__name__}.{name}")
        modules[name].arguments(parts.add_parser(name, help=modules[name].HELP, description=modules[name].HELP))
    options = parser.parse_args(arguments)
    try:
        return modules[options.command].main(options)
    except Problem as problem:
        print(f"djinn {options.command}: {problem}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130
