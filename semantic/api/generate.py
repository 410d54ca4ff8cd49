#!/usr/bin/env python3
"""The overlay and the vendor's headers in, the client's entry points, the commands' codecs, the server's table and the ledger out.

    python3 semantic/api/generate.py OUT --include DIR … [--fallback DIR] [--list]

There is no function's name in the generator: what a call means is said in the overlay, one line a function or family (generator/vocabulary.py). Files whose text
did not change keep their time, so that a change of one line compiles one file."""
import argparse
import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from api.generator import entry, ledger, prototypes, rules, wire  # noqa: E402
from api.generator.vocabulary import OverlayError  # noqa: E402

OVERLAY = ("cudart", "driver", "cublas", "cublaslt", "cudnn", "cusparse", "cusparselt", "cusolver", "cufft", "nccl", "cupti", "nvrtc", "cufile")


def write(path, lines):
    text = lines if isinstance(lines, str) else "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def generate(out, include, fallback):
    apis = [importlib.import_module(f"api.{name}").api for name in OVERLAY]
    known = prototypes.read_all(apis, include, fallback)
    missing = [api.name for api in apis if api.name not in known]
    for api in apis:
        if api.name in missing and not api.optional:
            raise OverlayError(f"{' '.join(api.headers)} not found in {', '.join(include)}: Djinn cannot be built without it")
    families = {api.name: rules.rows_of(api, known[api.name]) for api in apis if api.name in known}
    commands = [c for api in apis for c in rules.commands_of(api, families.get(api.name, []))]
    rules.refuse_collisions(commands)
    for api in apis:
        lines = entry.source(api, families[api.name], commands) if api.name in families else [f"// {' '.join(api.headers)} was not found."]
        write(out / f"entry_{api.name}.cpp", lines)
    rows = [row for family in families.values() for row, _ in family]
    write(out / "entry_table.cpp", entry.table(rows, {c.name: c.opcode for c in commands}))
    write(out / "djinn_api" / "commands.hpp", wire.commands_header(commands, {api.name: api.name in known for api in apis}))
    write(out / "djinn_api" / "decode_table.inc", wire.decode_table(commands))
    write(out / "ledger.json", ledger.as_json(families, missing))
    write(out / "ledger.md", ledger.as_markdown(families, missing))
    modes = [row.mode for row in rows]
    print(f"API: {len(rows)} functions, " + ", ".join(f"{modes.count(m)} {m}" for m in rules.MODES) + f"; {len(commands)} commands", end="")
    print(f"; no header, not exported: {' '.join(missing)}" if missing else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--include", nargs="+", default=[])
    parser.add_argument("--fallback", nargs="+", default=[])
    options = parser.parse_args()
    try:
        generate(options.out, options.include, options.fallback)
    except OverlayError as error:
        sys.exit(f"semantic/api/{error}")


if __name__ == "__main__":
    main()
