"""Errors: what a CUDA kernel asserts about values arrives at the next synchronisation, names op and reason and stays; what PyTorch checks on the host
is raised at the line and leaves the device usable. See suite.py."""
import torch
import torch.nn.functional as F

from suite import case, main

D = "cuda"


def text_of(f):
    try:
        f()
    except RuntimeError as e:
        return str(e)
    return ""


def asserts(f, op, reason):
    """The next synchronisation after f() fails, or what f() itself does after the op, and so does everything after it, until the process ends."""
    torch.zeros(4, device=D)
    torch.cuda.synchronize()
    first = text_of(lambda: (f(), torch.cuda.synchronize()))
    assert "device-side assert triggered" in first and op in first and reason in first, first or "no error"
    kept = torch.ones
    for name, again in (("synchronize", torch.cuda.synchronize), ("launch", lambda: kept(3, device=D)), ("copy", lambda: torch.zeros(2).to(D)),
                        ("large allocation", lambda: torch.empty(1 << 26, device=D)), ("event", lambda: torch.cuda.Event().record())):
        assert "device-side assert triggered" in text_of(again), f"{name} works after an assertion"


def index(n):
    return torch.tensor([0, n], device=D)


@case("embedding: index", alone=True)
def embedding():
    asserts(lambda: F.embedding(index(9), torch.ones(4, 3, device=D)), "aten::embedding", "out of range")


@case("indexing by a tensor", alone=True)
def indexing():
    x = torch.ones(4, device=D)
    asserts(lambda: x[index(9)], "aten::index", "out of bounds")


@case("gather", alone=True)
def gather():
    asserts(lambda: torch.ones(4, device=D).gather(0, index(4)), "aten::gather", "out of bounds")


@case("scatter_", alone=True)
def scatter():
    asserts(lambda: torch.ones(4, device=D).scatter_(0, index(-1), 2.0), "aten::scatter", "out of bounds")


@case("index_select", alone=True)
def index_select():
    asserts(lambda: torch.ones(4, device=D).index_select(0, index(4)), "aten::index_select", "out of range")


@case("index_add_", alone=True)
def index_add():
    asserts(lambda: torch.ones(4, device=D).index_add_(0, index(4), torch.ones(2, device=D)), "aten::index_add", "out of range")


@case("assignment by a tensor of indices", alone=True)
def index_put():
    x = torch.ones(4, device=D)

    def assign():
        x[index(9)] = 1
    asserts(assign, "aten::index_put", "out of bounds")


@case("take", alone=True)
def take():
    asserts(lambda: torch.ones(4, device=D).take(index(4)), "aten::take", "out of range")


@case("nll_loss: label", alone=True)
def label():
    asserts(lambda: F.cross_entropy(torch.ones(2, 3, device=D), index(3)), "aten::nll_loss", "out of bounds")


@case("nll_loss in two dimensions: label", alone=True)
def label_2d():
    asserts(lambda: F.cross_entropy(torch.ones(1, 3, 1, 2, device=D), index(3).view(1, 1, 2)), "aten::nll_loss2d", "out of bounds")


@case("multinomial with a negative probability", alone=True)
def multinomial_negative():
    asserts(lambda: torch.multinomial(torch.tensor([0.5, -1.0], device=D), 1), "aten::multinomial", "element < 0")


@case("multinomial without any probability", alone=True)
def multinomial_zero():
    asserts(lambda: torch.multinomial(torch.zeros(3, device=D), 2, replacement=True), "aten::multinomial", "sum of probabilities <= 0")


@case("bernoulli with a probability above one", alone=True)
def bernoulli():
    asserts(lambda: torch.bernoulli(torch.tensor([0.5, 1.5], device=D)), "aten::bernoulli", "p <= 1")


@case("torch._assert_async", alone=True)
def assert_async():
    torch._assert_async(torch.ones((), device=D), "fine")
    asserts(lambda: torch._assert_async(torch.zeros((), device=D), "the loss is zero"), "aten::_assert_async", "the loss is zero")


@case("a call that the shape cache knows", alone=True)
def cached():
    w = torch.ones(4, 3, device=D)
    F.embedding(index(1), w), F.embedding(index(2), w)
    bad = index(9)
    asserts(lambda: F.embedding(bad, w), "aten::embedding", "out of range")


@case("who reads the result hears of the assertion", alone=True)
def consumer():
    y = F.embedding(index(9), torch.ones(4, 3, device=D))
    said = text_of(lambda: (y + 1).relu().cpu())
    assert "device-side assert triggered" in said and "aten::embedding" in said, said


@case("in backward", alone=True)
def backward():
    w = torch.ones(4, device=D, requires_grad=True)
    i = index(1)
    y = w.gather(0, i).sum()
    i.data.fill_(9)  # the saved index goes bad, and autograd does not see it
    asserts(y.backward, "aten::scatter_add", "out of bounds")


@case("CUDA_LAUNCH_BLOCKING=1: at the line", alone=True, env=dict(CUDA_LAUNCH_BLOCKING="1"))
def blocking():
    said = text_of(lambda: F.embedding(index(9), torch.ones(4, 3, device=D)))
    assert "device-side assert triggered" in said and "aten::embedding" in said, said
    assert "device-side assert triggered" in text_of(torch.cuda.synchronize)


@case("what PyTorch checks on the host is raised at the line, and the device lives")
def host_checks():
    x = torch.ones(2, 3, device=D)
    for f, words in ((lambda: x @ x, "cannot be multiplied"), (lambda: x.sum(5), "Dimension out of range"), (lambda: x.gather(0, torch.ones(2, device=D)), "int64"),
                     (lambda: x[5], "out of bounds"), (lambda: torch.multinomial(x, 9), "without replacement"), (lambda: x.topk(7), "out of range"),
                     (lambda: x.bernoulli_(2.0), "p to be in [0, 1]"), (lambda: x.random_(5, 1), "'from' to be less than 'to'")):
        for _ in range(2):
            try:
                f()
                assert False, f"no error that says {words}"
            except (RuntimeError, IndexError) as e:
                assert words in str(e), e
    torch.cuda.synchronize()
    assert x.sum().item() == 6


@case("an argument check that only the server made is delivered once", alone=True)
def delivered_once():
    singular = torch.zeros(2, 2, device=D)
    assert "singular" in text_of(lambda: torch.linalg.inv(singular)) + text_of(torch.cuda.synchronize)
    torch.cuda.synchronize()
    assert torch.ones(3, device=D).sum().item() == 3


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(4, 3)

    def forward(self, i):
        return self.table(i)


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Inner(), Inner(), Inner()])

    def forward(self, i):
        return sum(layer(i if n != 1 else 3 * i) for n, layer in enumerate(self.layers))


@case("the module's path: of the layer whose index is wrong", alone=True)
def module_path():
    m = Outer().to(D)
    m(index(1)).sum().backward()
    asserts(lambda: m(index(2)), "aten::embedding in layers.1.table", "out of range")


class Picks(torch.nn.Module):
    def forward(self, x, i):
        return x.gather(0, i)


@case("the module's path in the backward: of the layer whose forward made the node", alone=True)
def module_path_backward():
    m = torch.nn.ModuleDict(dict(first=Picks(), second=Picks()))
    m.forward = lambda x, i, j: m["first"](x, i) + m["second"](x, j)
    x, i, j = torch.ones(4, device=D, requires_grad=True), index(1), index(2)
    y = m(x, i, j).sum()
    j.data.fill_(9)
    asserts(y.backward, "aten::scatter_add_ in second", "out of bounds")


@case("no module: op, line and reason", alone=True)
def module_path_none():
    x = torch.ones(4, device=D)
    assert "aten::gather (" in text_of(lambda: (x.gather(0, torch.tensor([7], device=D)), torch.cuda.synchronize()))


@case("the module's path after an exception inside, hooks, another thread, a compiled region and a module in place of one that is gone", alone=True)
def module_path_changes():
    import gc
    import threading
    m = Outer().to(D)
    seen = []
    handle = m.layers[0].register_forward_hook(lambda *_: seen.append(1))
    assert text_of(lambda: m(torch.ones(2, 2, 2, device=D)))  # not indices: raised inside
    other = threading.Thread(target=lambda: m(index(1)))
    other.start()
    other.join()
    assert torch.equal(torch.compile(m, backend="eager", fullgraph=True)(index(1)), m(index(1)))
    handle.remove()
    assert len(seen) >= 2
    for n in range(60):  # each in the memory of one that was called something else
        m.layers[n % 3] = Inner().to(D)
        m(index(1))
        gc.collect()
    asserts(lambda: m(index(2)), "aten::embedding in layers.1.table", "out of range")


@case("no_module_paths: op, line and reason", alone=True, env={"DJINN_PERF": "no_module_paths"})
def module_path_off():
    m = Outer().to(D)
    asserts(lambda: m(index(2)), "aten::embedding (", "out of range")


if __name__ == "__main__":
    main()
