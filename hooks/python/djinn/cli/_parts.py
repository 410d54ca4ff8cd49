"""What the subcommands share: where the built parts lie, and how a program is started under Djinn."""
import json
import os
import pathlib
import subprocess

from . import Problem

PACKAGES = pathlib.Path(__file__).resolve().parent.parent.parent  # the folder that `import djinn` needs on its path


def part(name):
    """A built part (libdjinn.so, djinn-gpu-server …): in DJINN_BUILD, in build/ of a checkout, or where it is installed."""
    checkout, installed = PACKAGES.parents[1] / "build", [PACKAGES.parent, PACKAGES.parents[2] / "bin"]
    places = [pathlib.Path(os.environ["DJINN_BUILD"])] if os.environ.get("DJINN_BUILD") else [checkout, *installed]
    for place in places:
        if (place / name).exists():
            return place / name
    raise Problem(f"{name} is in none of: {', '.join(map(str, places))} (scripts/build makes it; DJINN_BUILD names another folder)")


def program_environment(**extra):
    """The environment of a program under Djinn: the preload first, `import djinn` possible; None removes a variable."""
    env = dict(os.environ)
    others = [p for p in env.get("LD_PRELOAD", "").replace(":", " ").split() if not p.endswith("libdjinn.so")]
    env["LD_PRELOAD"] = ":".join([str(part("libdjinn.so")), *others])
    env["PYTHONPATH"] = os.pathsep.join([str(PACKAGES), *filter(None, [env.get("PYTHONPATH")])])
    for name, value in extra.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = str(value)
    return env


def endpoint(options):
    """The server that is meant: --server, DJINN_SERVER, or the local one."""
    chosen = getattr(options, "server", None) or os.environ.get("DJINN_SERVER")
    if chosen:
        return chosen
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")  # as interpose/batch/local_server.cpp chooses its folder
    return f"ipc://{runtime}/djinn/server" if runtime.startswith("/") and os.access(runtime, os.W_OK) else f"ipc:///tmp/djinn-{os.getuid()}/server"


def write(path, content):
    try:
        pathlib.Path(path).write_text(content, encoding="utf-8")
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}") from None


def ask(options, *question, timeout=15):
    """Asks the server through its own binary (`djinn-gpu-server --stats` and the like), and reads its JSON."""
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    try:
        done = subprocess.run([str(part("djinn-gpu-server")), *map(str, question), endpoint(options)], capture_output=True, text=True, timeout=timeout, env=env)
    except subprocess.TimeoutExpired:
        raise Problem(f"no answer from {endpoint(options)} within {timeout} s") from None
    if done.returncode:
        raise Problem(done.stderr.strip().removeprefix("djinn-gpu-server: ") or f"{question[0]} failed with status {done.returncode}")
    return json.loads(done.stdout)
