"""Starts djinn-gpu-server under the command line of the first Djinn:

    python3 -m djinn.backend.server.server --node-id server --control-port 5555 --data-port 5556

Options that only it has are either done or refused by name; what follows is handed to djinn-gpu-server as it is. This process becomes the server.
"""
import argparse
import importlib.util
import os
import pathlib
import sys

from ...cli import Problem
from ...cli._parts import part


def command(arguments=None):
    parser = argparse.ArgumentParser(prog="djinn.backend.server.server", description=__doc__.splitlines()[0],
                                     epilog="Further options are djinn-gpu-server's own.")
    parser.add_argument("--node-id", help="a name for this server; djinn-gpu-server has none and is known by its host: it becomes the process's name")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1; others need --allow-unauthenticated)")
    parser.add_argument("--control-port", type=int, help="default 5555")
    parser.add_argument("--data-port", type=int, help="the front door: always the port after the control port")
    options, others = parser.parse_known_args(arguments)
    control = 5555 if options.control_port is None else options.control_port
    if options.data_port not in (None, control + 1):
        parser.error(f"--data-port {options.data_port}: the front door is the port after the control port; with --control-port "
                     f"{control} that is {control + 1}")
    given = lambda name: any(o == name or o.startswith(name + "=") for o in others)
    line = [options.node_id or "djinn-gpu-server", *others]
    if not given("--listen") or options.host or options.control_port is not None:  # --listen adds: without a word it stands for the default
        line += ["--listen", f"tcp://{options.host or '127.0.0.1'}:{control}"]
    torch = importlib.util.find_spec("torch")
    if torch and not given("--torch"):
        line += ["--torch", str(pathlib.Path(torch.origin).parent)]
    return line


def main():
    line = command()
    try:
        server = part("djinn-gpu-server")
    except Problem as problem:
        sys.exit(f"djinn.backend.server.server: {problem}")
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # the server is no client of another one
    os.execve(server, line, environment)


if __name__ == "__main__":
    main()
