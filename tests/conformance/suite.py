"""What a conformance suite is made of. A suite is a client program `<name>_client.py` of cases:

    @case("what it shows")                    runs in the process of the cases before it
    @case("…", alone=True)                    in a process of its own: it leaves a sticky error, ends badly, or needs a fresh CUDA
    @case("…", server=("--devices", 2))       with a server of these options; env={…} gives the client's environment
    @case("…", slow=True)                     not in CI's part

A case returns None, or a short text for the table's last column; it raises AssertionError when a result is wrong, any other exception is an error, Skip
names what is missing. `compare(device_value, cpu_value)` is assert_close over nested values; a program of a device whose values shall be the same on
both is a case by itself, with tolerances where it needs other than assert_close's:

    @same("what it shows", rtol=1e-4, atol=1e-5)
    def name(device): …

The driver is scripts/conformance; CI runs test_suites.py.
As a program: `<name>_client.py CASE…` prints one JSON line per case {case, shows, status: ok|wrong|error|skipped, detail, seconds}, `--list` what there is.
"""
import dataclasses
import functools
import json
import pathlib
import sys
import time
import traceback
import typing

CASES = {}


class Skip(Exception):
    """The case cannot run here: its text names what is missing."""


@dataclasses.dataclass
class Case:
    name: str
    shows: str
    function: typing.Callable
    alone: bool = False
    slow: bool = False
    server: tuple = ()
    env: dict = dataclasses.field(default_factory=dict)


def case(shows, **options):
    def add(function):
        assert function.__name__ not in CASES, f"two cases called {function.__name__}"
        CASES[function.__name__] = Case(function.__name__, shows, function, **options)
        return function
    return add


def compare(actual, expected, rtol=None, atol=None, where=""):
    """Nested lists, tuples and dicts of tensors and numbers: equal within assert_close's defaults (or rtol, atol), dtypes and shapes the same."""
    import torch
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual.detach().cpu(), expected.detach().cpu(), rtol=rtol, atol=atol, equal_nan=True,
                                   msg=lambda m: f"{where or 'value'}: {m}")
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), f"{where}: {actual.keys()} instead of {expected.keys()}"
        for k in expected:
            compare(actual[k], expected[k], rtol, atol, f"{where}[{k!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), f"{where}: {len(actual)} values instead of {len(expected)}"
        for i, (a, e) in enumerate(zip(actual, expected)):
            compare(a, e, rtol, atol, f"{where}[{i}]")
    elif isinstance(expected, float):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda m: f"{where or 'value'}: {m}")
    else:
        assert actual == expected, f"{where or 'value'}: {actual!r} instead of {expected!r}"


def same(shows, rtol=None, atol=None, **options):
    """A case: the function's values on 'cuda' equal those on 'cpu', where Djinn has no part."""
    def add(function):
        @functools.wraps(function)
        def both():
            expected = function("cpu")
            compare(function("cuda"), expected, rtol, atol)
        case(shows, **options)(both)
        return function
    return add


def run_case(c):
    begin = time.monotonic()
    try:
        status, detail = "ok", c.function() or ""
        if not c.alone and (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # a late error belongs to this case
    except Skip as e:
        status, detail = "skipped", str(e)
    except AssertionError as e:
        status, detail = "wrong", f"{e or traceback.format_exc(limit=-1)}"
    except Exception:
        status, detail = "error", traceback.format_exc(limit=-4)
    return dict(case=c.name, shows=c.shows, status=status, detail=detail, seconds=round(time.monotonic() - begin, 2))


def main():
    if sys.argv[1:] == ["--list"]:
        for c in CASES.values():
            print(json.dumps(dict(case=c.name, shows=c.shows, alone=c.alone, slow=c.slow, server=[str(o) for o in c.server], env=c.env)))
        return
    for name in sys.argv[1:] or CASES:
        print(json.dumps(dict(begin=name)), flush=True)
        print(json.dumps(run_case(CASES[name])), flush=True)
    print(json.dumps(dict(end=True)), flush=True)


def suites():
    """Name → client program, of every suite in this folder but OpInfo's, which has its own driver."""
    here = pathlib.Path(__file__).resolve().parent
    return {p.name.removesuffix("_client.py"): p for p in sorted(here.glob("*_client.py")) if p.name not in ("opinfo_client.py", "executor_client.py")}
