"""A session's graph as the server tells it (`--graph`), summed up in the ways that people look at it: by module, by phase, between modules."""
import collections
import re

PHASES = ("llm_prefill", "llm_decode", "vision_encoding", "audio_encoding", "forward", "backward", "optimizer", "other")
RESIDENCIES = ("persistent_weight", "ephemeral_activation", "stateful_kv_cache", "gradient", "optimizer_state", "input", "other")
NOWHERE = "(no module)"


class Sum:
    """Of some nodes."""

    def __init__(self):
        self.count = self.nanoseconds = self.flops = self.read = self.written = 0
        self.by_phase, self.by_residency = collections.Counter(), collections.Counter()

    def add(self, node):
        self.count += node["count"]
        self.nanoseconds += node["nanoseconds"]
        self.flops += node["flops"]
        self.read += sum(node["bytes_read"].values())
        self.written += node["bytes_written"]
        self.by_phase[node["phase"]] += node["nanoseconds"]
        self.by_residency.update(node["bytes_read"])


def together(module):
    """Layers of one kind under one name: transformer.h.3.mlp → transformer.h.*.mlp."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", module)


def cut(module, depth):
    return ".".join(module.split(".")[:depth]) if depth else module


def sums(graph, key):
    out = collections.defaultdict(Sum)
    for node in graph["nodes"]:
        out[key(node)].add(node)
    return sorted(out.items(), key=lambda item: -item[1].nanoseconds)


def module_of(node, layers=False, depth=0):
    return cut(node["module"] if layers else together(node["module"]), depth) or NOWHERE


def between(graph, key):
    """(from, to) → residency → bytes, of nodes that `key` tells apart."""
    out = collections.defaultdict(collections.Counter)
    for edge in graph["edges"]:
        ends = tuple(key(graph["nodes"][edge[end]]) for end in ("from", "to"))
        out[ends][edge["residency"]] += edge["bytes"]
    return out


def depth_for(graph, most, layers=True):
    """The deepest cut of module paths that leaves no more than `most` modules apart."""
    deepest = max((len(n["module"].split(".")) for n in graph["nodes"]), default=1)
    for depth in range(deepest, 1, -1):
        if len({module_of(n, layers, depth) for n in graph["nodes"]}) <= most:
            return depth
    return 1
