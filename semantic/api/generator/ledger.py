"""The coverage ledger: what each function of each header is to Djinn. ledger.json for tests and tools, ledger.md for people: numbers, then what is there,
then what is absent and why."""
import collections
import json


def as_json(families, missing):
    functions = [dict(name=row.name, family=name, mode=row.mode, why=row.why, where=row.where, **({"scope": row.scope} if row.scope else {}))
                 for name, rows in families.items() for row, _ in rows]
    return json.dumps({"missing_headers": missing, "functions": functions}, indent=0)


def as_markdown(families, missing):
    yield "# What Djinn does with each CUDA function\n"
    yield "Generated from semantic/api: change it there. `post`: sent, not waited for; `custom`: hand-written, sends commands; `local`: answered in the"
    yield "client; `absent`: exported, returns NOT_SUPPORTED and says so once.\n"
    yield "| family | functions | post | custom | local | absent |\n|---|---|---|---|---|---|"
    for name, rows in families.items():
        count = collections.Counter(row.mode for row, _ in rows)
        yield f"| {name} | {len(rows)} | " + " | ".join(str(count[m]) for m in ("post", "custom", "local", "absent")) + " |"
    for name in missing:
        yield f"\n{name}: its header was not found when this was generated; nothing of it is exported."
    for name, rows in families.items():
        yield f"\n## {name}\n"
        groups = collections.defaultdict(list)
        for row, _ in rows:
            groups[row.mode, row.why, row.scope].append(row.name)
        for mode in ("post", "custom", "local", "absent"):
            for (m, why, scope), names in groups.items():
                if m == mode:
                    inside = {"drop": " (dropped inside an op scope)", "abort": " (inside an op scope the server runs the op)"}.get(scope, "")
                    yield f"* **{mode}**{': ' + why if why else ''}{inside}: {', '.join(names)}"
