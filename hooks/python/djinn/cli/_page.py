"""`djinn graph --html`: one page that needs nothing else. The module tree with time, FLOPs and bytes, opened where the time is; the graph between modules
as a drawing; the ops. No script: a tree folds by itself (<details>), and what the mouse shows is a title."""
import html

from . import _graph, _show

BOXES_MAX = 48    # of the drawing
FLOW_MIN = 0.01   # of the largest flow: thinner ones are not drawn
OPS_MAX = 60
COLORS = {"forward": "#4c78a8", "backward": "#e45756", "optimizer": "#f2a541", "llm_prefill": "#72b7b2", "llm_decode": "#54a24b", "vision_encoding": "#b279a2",
          "audio_encoding": "#9d755d", "other": "#bab0ac"}
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1300px; padding: 0 1em; color: #222; background: #fff }
h1 { font-size: 1.3em } h2 { font-size: 1.1em; margin-top: 2em }
.row { display: grid; grid-template-columns: minmax(16em, 1fr) 22em 6em 6em 6em 6em; gap: .8em; align-items: center; border-bottom: 1px solid #eee }
.row > span { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap } .row > b { font-weight: 500; overflow-wrap: anywhere }
.bar { display: flex; height: .9em; background: #f4f4f4; border-radius: 2px; overflow: hidden } .bar i { display: block; height: 100% }
details > div, details > details { margin-left: 1.2em } summary { cursor: pointer } summary .row { display: inline-grid; width: calc(100% - 1.2em) }
.head { font-weight: 600; border-bottom: 2px solid #999 } .key i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
svg { border: 1px solid #eee } svg text { font: 11px system-ui, sans-serif } .draw { overflow-x: auto }
"""


def safe(text):
    return html.escape(_show.printable(text))


def bar(s, most):
    parts = "".join(f'<i style="width:{100 * s.by_phase[p] / most:.2f}%;background:{COLORS[p]}" title="{p}: {_show.span(s.by_phase[p])}"></i>'
                    for p in _graph.PHASES if s.by_phase[p]) if most else ""
    return f'<div class="bar">{parts}</div>'


def row(name, s, most):
    reads = ", ".join(f"{r} {_show.size(n)}" for r, n in s.by_residency.most_common()) or "nothing"
    return (f'<div class="row"><b>{safe(name)}</b>{bar(s, most)}<span>{_show.span(s.nanoseconds)}</span><span>{_show.scaled(s.flops)}</span>'
            f'<span title="{safe(reads)}">{_show.size(s.read)}</span><span>{_show.size(s.written)}</span></div>')


HEAD = '<div class="row head"><b>{}</b><div></div><span>time</span><span>FLOPs</span><span>read</span><span>written</span></div>'


class Tree:
    """Modules by the parts of their paths; a module's sum has its children in it."""

    def __init__(self):
        self.sum, self.children = _graph.Sum(), {}

    def add(self, parts, node):
        self.sum.add(node)
        if parts:
            self.children.setdefault(parts[0], Tree()).add(parts[1:], node)

    def html(self, name, most, depth=0):
        line = row(name, self.sum, most)
        if not self.children:
            return f"<div>{line}</div>"
        layers = all(name.isdecimal() for name in self.children)
        children = sorted(self.children.items(), key=lambda item: int(item[0]) if layers else -item[1].sum.nanoseconds)
        opened = " open" if self.sum.nanoseconds >= most / 10 and depth < 3 else ""
        return f"<details{opened}><summary>{line}</summary>{''.join(t.html(n, most, depth + 1) for n, t in children)}</details>"


WIDTH, HEIGHT, GAP_X, GAP_Y = 200, 38, 130, 26


def path(a, b):
    """From one box to another: to the side between columns, past the boxes in between inside of one."""
    (x1, y1), (x2, y2) = a, b
    if x1 == x2 and y1 + HEIGHT + GAP_Y == y2:
        return f"M{x1 + WIDTH / 2},{y1 + HEIGHT} L{x2 + WIDTH / 2},{y2}"
    y1, y2 = y1 + HEIGHT / 2, y2 + HEIGHT / 2
    if x1 == x2:  # down on the right side, up on the left
        x = x1 + WIDTH if y1 < y2 else x1
        out = x + (1 if y1 < y2 else -1) * min(GAP_X * 0.8, 12 + abs(y2 - y1) / 6)
        return f"M{x},{y1} C{out},{y1} {out},{y2} {x},{y2}"
    x1, x2 = (x1 + WIDTH, x2) if x1 < x2 else (x1, x2 + WIDTH)
    return f"M{x1},{y1} C{(x1 + x2) / 2},{y1} {(x1 + x2) / 2},{y2} {x2},{y2}"


def drawing(graph, layers):
    """A column for each phase and a row for each module, in the order in which they first ran: what a backward reads stands beside the forward that made it."""
    depth = _graph.depth_for(graph, BOXES_MAX // 2, layers)

    def key(node):
        return _graph.module_of(node, layers, depth), node["phase"]

    boxes = dict(_graph.sums(graph, key)[:BOXES_MAX])
    ran = [box for box in dict.fromkeys(map(key, graph["nodes"])) if box in boxes]
    rows, columns = list(dict.fromkeys(box[0] for box in ran)), sorted({box[1] for box in ran}, key=_graph.PHASES.index)
    place = {box: (GAP_X + columns.index(box[1]) * (WIDTH + GAP_X), 20 + rows.index(box[0]) * (HEIGHT + GAP_Y)) for box in ran}
    flows = {ends: sum(by.values()) for ends, by in _graph.between(graph, key).items() if ends[0] in boxes and ends[1] in boxes and ends[0] != ends[1]}
    total, most = sum(s.nanoseconds for s in boxes.values()) or 1, max(flows.values(), default=1)
    out = ['<defs><marker id="to" markerUnits="userSpaceOnUse" markerWidth="9" markerHeight="8" refX="9" refY="4" orient="auto">'
           '<path d="M0,0 L9,4 L0,8 z" fill="#888"/></marker></defs>']
    for (a, b), n in sorted(flows.items(), key=lambda item: item[1]):
        if n >= FLOW_MIN * most:
            out.append(f'<path d="{path(place[a], place[b])}" fill="none" stroke="#888" stroke-opacity=".6" marker-end="url(#to)" '
                       f'stroke-width="{0.8 + 5 * n / most:.2f}"><title>{safe(a[0])} [{a[1]}] → {safe(b[0])} [{b[1]}]: {_show.size(n)}</title></path>')
    for name, s in boxes.items():
        x, y = place[name]
        label = name[0] if len(name[0]) <= 28 else "…" + name[0][-27:]
        out.append(f'<g><title>{safe(name[0])} [{name[1]}]: {s.count} ops, {_show.span(s.nanoseconds)}</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="#fff"/>'
                   f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{COLORS[name[1]]}" fill-opacity="{0.2 + 0.7 * s.nanoseconds / total:.2f}" stroke="{COLORS[name[1]]}"/>'
                   f'<text x="{x + 8}" y="{y + 16}">{safe(label)}</text><text x="{x + 8}" y="{y + 31}" fill="#555">{name[1]}, {_show.span(s.nanoseconds)}</text></g>')
    w, h = GAP_X + len(columns) * (WIDTH + GAP_X), 20 + len(rows) * (HEIGHT + GAP_Y)
    return f'<div class="draw"><svg width="{w}" height="{h}" viewBox="0 0 {w} {h}">{"".join(out)}</svg></div>'


def page(graph, layers=False):
    tree = Tree()
    for node in graph["nodes"]:
        tree.add(node["module"].split(".") if node["module"] else [_graph.NOWHERE], node)
    most = tree.sum.nanoseconds
    ops = _graph.sums(graph, lambda n: n["op"])[:OPS_MAX]
    phases = _graph.sums(graph, lambda n: n["phase"])
    name = graph["meaning"]["name"] or f"session {graph['session']}"
    keys = "".join(f'<i style="background:{COLORS[p]}"></i>{p}' for p in _graph.PHASES if tree.sum.by_phase[p])
    return "\n".join([
        '<!doctype html><html lang="en"><head><meta charset="utf-8">', f"<title>djinn graph: {safe(name)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{safe(name)}: {tree.sum.count} ops, {_show.span(most)}, {_show.scaled(tree.sum.flops)}FLOP</h1>", f'<p class="key">Time by phase:{keys}</p>',
        "<h2>Modules</h2>", HEAD.format("module"), tree.html("all", most), "<h2>What modules give each other</h2>", f"<p>Flows of at least {FLOW_MIN:.0%} of the largest; layers of one kind together, unless --layers.</p>", drawing(graph, layers),
        "<h2>Phases</h2>", HEAD.format("phase"), *(row(p, s, most) for p, s in phases), "<h2>Ops</h2>", HEAD.format("op"),
        *(row(o, s, most) for o, s in ops), "</body></html>", ""])
