"""`djinn graph`: what a session did, by module and phase: time, FLOPs, bytes, and which module made what another read. While it runs, and for the last
sessions that have ended. A table for people, or a file: JSON, Graphviz, or one page of HTML that needs nothing else."""
import json

from . import Problem, _graph, _page, _show
from ._parts import ask, write

HELP = "show what a session did, by module and phase"
DOT_MODULES_MAX = 60  # more boxes than that and nobody sees anything
COLUMNS = ("OPS", "TIME", "SHARE", "FLOPS", "READ", "WRITTEN")


def arguments(parser):
    parser.add_argument("session", nargs="?", type=int, default=0, metavar="SESSION", help="its number, as in `djinn ps` (default: the newest)")
    parser.add_argument("--server", metavar="ENDPOINT", help="default: DJINN_SERVER, else the local server")
    parser.add_argument("--json", metavar="FILE", help="everything, as the server says it")
    parser.add_argument("--dot", metavar="FILE", help="the graph between modules, for Graphviz")
    parser.add_argument("--html", metavar="FILE", help="a page with the module tree, its times and bytes, and the graph")
    parser.add_argument("--layers", action="store_true", help="layers of one kind apart (h.0.mlp, h.1.mlp) instead of together (h.*.mlp)")
    parser.add_argument("--rows", type=int, default=25, metavar="N", help="of the table by module (default 25)")


def columns(total, s):
    return s.count, _show.span(s.nanoseconds), _show.share(s.nanoseconds, total), _show.scaled(s.flops), _show.size(s.read), _show.size(s.written)


def by_phase(graph, total):
    steps = graph["meaning"]["steps"]
    rows = [(phase, steps.get(phase, "–"), *columns(total, s)) for phase, s in _graph.sums(graph, lambda n: n["phase"])]
    return _show.table(rows, ("PHASE", "STEPS", *COLUMNS), right=("STEPS", *COLUMNS))


def by_module(graph, total, options):
    sums = _graph.sums(graph, lambda n: (_graph.module_of(n, options.layers), n["phase"]))
    rows = [(module, phase, *columns(total, s)) for (module, phase), s in sums[:options.rows]]
    lines = _show.table(rows, ("MODULE", "PHASE", *COLUMNS), right=COLUMNS)
    return lines + ([f"… and {len(sums) - options.rows} more (--rows)"] if len(sums) > options.rows else [])


def by_op(graph, total, rows=10):
    sums = _graph.sums(graph, lambda n: n["op"])
    lines = _show.table([(op, *columns(total, s)) for op, s in sums[:rows]], ("OP", *COLUMNS), right=COLUMNS)
    return lines + ([f"… and {len(sums) - rows} more"] if len(sums) > rows else [])


def headline(graph):
    meaning = graph["meaning"]
    left_out = [f"{graph[f'{what}_left_out']} {words} left out" for what, words in (("nodes", "ops"), ("edges", "reads")) if graph[f"{what}_left_out"]]
    return ", ".join([f"session {graph['session']}" + (f" ({_show.printable(meaning['name'])})" if meaning["name"] else ""),
                      f"{sum(n['count'] for n in graph['nodes'])} ops in {len(graph['nodes'])} nodes and {len(graph['edges'])} edges", *left_out])


def text(graph, options):
    total = sum(n["nanoseconds"] for n in graph["nodes"])
    return "\n".join([headline(graph), "", *by_phase(graph, total), "", *by_module(graph, total, options), "", *by_op(graph, total)])


def quoted(text):
    return '"' + _show.printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def dot(graph, layers=False):
    depth = _graph.depth_for(graph, DOT_MODULES_MAX, layers)

    def key(node):
        return _graph.module_of(node, layers, depth), node["phase"]

    total = sum(n["nanoseconds"] for n in graph["nodes"]) or 1
    boxes = _graph.sums(graph, key)[:DOT_MODULES_MAX]
    number = {name: i for i, (name, _) in enumerate(boxes)}
    lines = ["digraph djinn {", "  rankdir=LR; node [shape=box, style=filled, fontname=\"sans-serif\"]; edge [fontname=\"sans-serif\", fontsize=9];"]
    for (module, phase), s in boxes:
        hue = 0.6 * (1 - s.nanoseconds / total)
        label = quoted(f"{module} [{phase}]")[:-1] + f"\\n{_show.span(s.nanoseconds)}, {_show.scaled(s.flops)}FLOP\""
        lines.append(f"  n{number[module, phase]} [label={label}, fillcolor=\"{hue:.3f} 0.25 1\"];")
    for (a, b), bytes_by in sorted(_graph.between(graph, key).items(), key=lambda item: -sum(item[1].values())):
        if a in number and b in number and a != b:
            lines.append(f"  n{number[a]} -> n{number[b]} [label=\"{_show.size(sum(bytes_by.values()))} {bytes_by.most_common(1)[0][0]}\"];")
    return "\n".join([*lines, "}", ""])


def main(options):
    if options.session < 0:
        raise Problem(f"{options.session} is no session's number")
    graph = ask(options, "--session", options.session, "--graph")
    if not graph["nodes"]:
        raise Problem(f"session {graph['session']} has run no ops yet (a step counts when it is over; CUDA calls outside of PyTorch are no ops)")
    for path, make in ((options.json, lambda: json.dumps(graph, indent=1)), (options.dot, lambda: dot(graph, options.layers)),
                       (options.html, lambda: _page.page(graph, options.layers))):
        if path:
            write(path, make())
    if not (options.json or options.dot or options.html):
        print(text(graph, options))
    return 0
