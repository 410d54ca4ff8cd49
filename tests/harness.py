"""What the Python tests share: a real djinn-gpu-server on a private socket, and real client processes with libdjinn.so preloaded.

Nothing here knows Djinn's inside: servers and clients are started as a user starts them, and judged by what they print, by their exit status and by
the server's own counters (`djinn-gpu-server --stats`). Every wait has an end. CTest gives the build folder in DJINN_BUILD.
"""
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("DJINN_BUILD", ROOT / "build"))
SERVER = BUILD / "djinn-gpu-server"
PRELOAD = BUILD / "libdjinn.so"
COORDINATOR = BUILD / "libdjinn_coordinator.so"
EXAMPLES = ROOT / "docs" / "examples"
PACKAGES = ROOT / "hooks" / "python"  # what `import djinn` needs on its path


def torch_directory():
    """The torch package of the interpreter that runs the tests, found without importing it."""
    spec = importlib.util.find_spec("torch")
    return pathlib.Path(spec.origin).parent if spec else None


# Hooks and executors are built per minor version of torch.
TORCH_MINOR = ".".join(importlib.metadata.version("torch").split(".")[:2]) if importlib.util.find_spec("torch") else None


def clean_environment(**extra):
    """The caller's environment without anything that steers Djinn, plus `extra` (None removes)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("DJINN_") and k not in ("LD_PRELOAD", "OMP_NUM_THREADS")}
    for k, v in extra.items():
        if v is None:
            env.pop(k, None)
        else:
            env[k] = str(v)
    return env


def free_ports(count=2):
    """The first of so many ports in a row that nobody listens on now (a server's control port and its front door)."""
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                for other in range(port + 1, port + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", other))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError(f"no {count} free ports in a row")


class Server:
    """A server on an ipc socket in a folder of its own (or on the given endpoint); a context manager. `options` are its command line."""

    def __init__(self, *options, endpoint=None, torch=True, wait=60):
        self.folder = tempfile.TemporaryDirectory(prefix="djinn-test-")
        self.endpoint = endpoint or f"ipc://{self.folder.name}/server"
        self.log_path = pathlib.Path(self.folder.name) / "log"
        command = [str(SERVER), "--listen", self.endpoint, *map(str, options)]
        if torch and torch_directory():
            command += ["--torch", str(torch_directory())]
        read_end, write_end = os.pipe()
        command += ["--ready-fd", str(write_end)]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(), pass_fds=[write_end])
        os.close(write_end)
        self._await_ready(read_end, wait)

    def _await_ready(self, fd, wait):
        text = b""
        deadline = time.monotonic() + wait
        with os.fdopen(fd, "rb", buffering=0) as pipe:
            while b"\n" not in text:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([pipe], [], [], left)[0]:
                    self.kill()
                    raise AssertionError(f"server not ready after {wait} s:\n{self.log()}")
                piece = pipe.read(4096)
                if not piece:
                    raise AssertionError(f"server ended at start ({self.process.wait()}):\n{self.log()}")
                text += piece

    def log(self):
        return self.log_path.read_text(errors="replace")

    def stats(self):
        done = subprocess.run([str(SERVER), "--stats", self.endpoint], capture_output=True, text=True, timeout=20, env=clean_environment())
        if done.returncode:
            raise AssertionError(f"--stats failed: {done.stderr}\nserver log:\n{self.log()}")
        return json.loads(done.stdout)

    def total(self, counter):
        """A counter over all sessions, live and ended."""
        s = self.stats()
        return s["ended"][counter] + sum(c[counter] for c in s["sessions"])

    def until(self, predicate, seconds=5.0):
        """Waits until predicate(stats) holds; the last stats, or an AssertionError that shows them."""
        deadline = time.monotonic() + seconds
        while True:
            s = self.stats()
            if predicate(s):
                return s
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {json.dumps(s, indent=1)}")
            select.select([], [], [], 0.05)

    def kill(self, how=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the server did not end on SIGTERM within 20 s")
        finally:
            self.folder.cleanup()


def client_environment(server=None, **extra):
    endpoint = {"DJINN_SERVER": server.endpoint} if isinstance(server, Server) else {"DJINN_SERVER": server} if server else {}
    return clean_environment(**{"LD_PRELOAD": PRELOAD, **endpoint, **extra})


def start(source, server=None, arguments=(), preload=True, stdin=subprocess.DEVNULL, **extra):
    """Starts Python code (or a script, given as a path) as a client of `server`; preload=False is the same program without Djinn."""
    command = [sys.executable, "-u"] + ([str(source)] if isinstance(source, pathlib.Path) else ["-c", source]) + [str(a) for a in arguments]
    env = client_environment(server, **extra) if preload else clean_environment(**extra)
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


class Finished:
    def __init__(self, process, out, err):
        self.status, self.out, self.err = process.returncode, out, err

    def __str__(self):
        return f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def finish(process, timeout=120):
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"client still running after {timeout} s\n--- stdout\n{out}\n--- stderr\n{err}")
    return Finished(process, out, err)


def run(source, server=None, arguments=(), preload=True, timeout=120, check=True, **extra):
    done = finish(start(source, server, arguments, preload, **extra), timeout)
    if check and done.status:
        raise AssertionError(str(done) + (f"\n--- server\n{server.log()}" if isinstance(server, Server) else ""))
    return done


def await_line(process, text, timeout=60):
    """Reads the client's stdout until a line with `text`; what it printed so far."""
    deadline, seen = time.monotonic() + timeout, ""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            process.kill()
            raise AssertionError(f"no line with {text!r} within {timeout} s; got:\n{seen}\n{process.stderr.read()}")
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"client ended before {text!r}; got:\n{seen}\n{process.stderr.read()}")
        seen += line
        if text in line:
            return seen


class Case(unittest.TestCase):
    """Tests that need torch say so by deriving from this with `needs_torch`; a skip names what is missing."""
    needs_torch = True
    needs = (SERVER, PRELOAD)

    @classmethod
    def setUpClass(cls):
        for needed in cls.needs:
            if not needed.exists():
                raise AssertionError(f"{needed} is not built")
        if cls.needs_torch and not torch_directory():
            raise unittest.SkipTest("torch is not installed")


if __name__ == "__main__":
    sys.exit("harness.py is imported by the tests; run scripts/test")
