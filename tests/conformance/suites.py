"""The driver of the suites (suite.py): runs cases in client processes against a real server, one process for those that share one, and starts a new
process behind a case that took its process along. `scripts/conformance NAME… [--case REGEX] [--json FILE]`; test_suites.py runs CI's part."""
import argparse
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Server, clean_environment, client_environment
from suite import suites

CASE_SECONDS_MAX = 900
# Client and server compute in turns on the same cores: waiting threads sleep instead of spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def listed(client):
    done = subprocess.run([sys.executable, str(client), "--list"], capture_output=True, text=True, env=clean_environment(), timeout=120)
    if done.returncode:
        raise AssertionError(f"{client.name} --list: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_together(server, client, cases):
    """Rows of these cases, run in one process, and in another behind each that ended its process."""
    rows, env = [], client_environment(server, DJINN_SUMMARY="off", **cases[0]["env"])
    while len(rows) < len(cases):
        names = [c["case"] for c in cases[len(rows):]]
        try:
            done = subprocess.run([sys.executable, str(client), *names], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env,
                                  timeout=CASE_SECONDS_MAX * len(names))
            out, err, status = done.stdout, done.stderr, f"status {done.returncode}"
        except subprocess.TimeoutExpired as e:
            out, err, status = (e.stdout or b"").decode(), (e.stderr or b"").decode(), "still running"
        new = [r for r in map(json.loads, (line for line in out.splitlines() if line.startswith('{"'))) if "status" in r]
        rows += new
        if len(new) < len(names):
            c = cases[len(rows)]
            rows.append(dict(case=c["case"], shows=c["shows"], status="crash", detail=f"{status}: {err[-600:]}", seconds=0))
    return rows


def run_suite(name, pattern="", slow=True):
    client, rows = suites()[name], []
    cases = [c for c in listed(client) if re.search(pattern, c["case"]) and (slow or not c["slow"])]
    for options, of_server in itertools.groupby(sorted(cases, key=lambda c: c["server"]), key=lambda c: c["server"]):
        with Server(*options) as server:
            for _, together in itertools.groupby(of_server, key=lambda c: c["case"] if c["alone"] else json.dumps(c["env"])):
                rows += run_together(server, client, list(together))
    return [dict(suite=name, **r) for r in rows]


def table(rows):
    for r in rows:
        print(f"{r['status']:8s} {r['suite']:9s} {r['case']:44s} {r['seconds']:7.1f} s  {r['detail'].splitlines()[-1][:140] if r['detail'] else ''}")
        if r["status"] not in ("ok", "skipped"):
            print("    " + r["detail"].replace("\n", "\n    "))
    count = {s: sum(r["status"] == s for r in rows) for s in ("ok", "wrong", "error", "crash", "skipped")}
    print(", ".join(f"{n} {s}" for s, n in count.items()))


def main():
    parser = argparse.ArgumentParser(prog="scripts/conformance", description="Suites of programs through real processes.")
    parser.add_argument("suites", nargs="+", choices=list(suites()))
    parser.add_argument("--case", default="", help="regular expression of cases")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    rows = [r for name in options.suites for r in run_suite(name, options.case)]
    table(rows)
    if options.json:
        packages = {name: importlib.metadata.version(name) for name in ("transformers", "torchvision")}
        run = dict(torch=importlib.metadata.version("torch"), packages=packages, rows=rows)
        pathlib.Path(options.json).write_text(json.dumps(run, indent=0) + "\n")
    sys.exit(any(r["status"] not in ("ok", "skipped") for r in rows) or not rows)


if __name__ == "__main__":
    main()
