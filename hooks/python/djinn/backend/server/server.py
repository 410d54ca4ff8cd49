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
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1; others need --allow-unauthenticated)")
    parser.add_argument("--control-port", type=int, default=5555)
    parser.add_argument("--data-port", type=int, help="the front door: always the port after the control port")
    options, others = parser.parse_known_args(arguments)
    if options.data_port not in (None, options.control_port + 1):
        parser.error(f"--data-port {options.data_port}: the front door is the port after the control port; with --control-port "
                     f"{options.control_port} that is {options.control_port + 1}")
    line = [options.node_id or "djinn-gpu-server", "--listen", f"tcp://{options.host}:{options.control_port}", *others]
    torch = importlib.util.find_spec("torch")
    if torch and not any(o == "--torch" or o.startswith("--torch=") for o in others):
        line += ["--torch", str(pathlib.Path(torch.origin).parent)]
    return line


def main():
    line = command()
    try:
        server = part("djinn-gpu-server")
    except Problem as problem:
        sys.exit(f"djinn.backend.server.server: {problem}")
    # the server is no client of another one
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "OMP_NUM_THREADS")}
    os.execve(server, line, environment)


if __name__ == "__main__":
    main()
