"""The work that scripts/bench times, run as a process of its own: `cases.py cpu|cuda`, one JSON request per line on stdin, one answer on stdout.

The native leg runs in a process without Djinn, the other leg in a process with it, and the driver lets them take turns, so that a change of the
machine's speed meets both. Each case also returns a value, which the driver compares: a fast wrong answer is no result.
"""
import json
import pathlib
import sys
import time
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.a, self.b = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, past=None):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.qkv(self.a(x)).split(c, 2))
        if past is not None:
            if past:
                k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            past[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.b(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocabulary=1000, width=128, heads=4, layers=4, context=128):
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks, self.norm, self.head = nn.ModuleList(Block(width, heads) for _ in range(layers)), nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids, past=None, start=0):
        x = self.token(ids) + self.place(torch.arange(start, start + ids.shape[1], device=ids.device))
        for i, block in enumerate(self.blocks):
            x = block(x, past[i] if past is not None else None)
        return self.head(self.norm(x))


def seeded(*shape, high=None, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, shape, generator=g) if high else torch.randn(*shape, generator=g)


class TrainGpt:
    unit, item = "step", False

    def __init__(self, device):
        torch.manual_seed(0)
        self.model = Gpt().to(device).train()
        self.ids = seeded(4, 65, high=1000).to(device)
        self.optimizer, self.losses = torch.optim.AdamW(self.model.parameters(), 1e-3), []

    def once(self):
        self.optimizer.zero_grad()
        logits = self.model(self.ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), self.ids[:, 1:].flatten())
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item() if self.item else loss.detach())

    def value(self):
        return float(self.losses[-1])


class TrainGptItem(TrainGpt):
    item = True


class Decode:
    unit = "token"

    def __init__(self, device):
        torch.manual_seed(0)
        self.model, self.device, self.tokens = Gpt().to(device).eval(), device, None
        self.restart()

    def restart(self):
        self.past, self.position, self.out = [[] for _ in self.model.blocks], 0, []
        self.next = seeded(1, 8, high=1000).to(self.device)

    @torch.no_grad()
    def once(self):
        if self.position + self.next.shape[1] > 100:
            self.tokens = torch.cat(self.out, 1).cpu()  # as generate() does when it ends
            self.restart()
        logits = self.model(self.next, self.past, self.position)
        self.position += self.next.shape[1]
        self.next = logits[:, -1:].argmax(-1)
        self.out.append(self.next)
        self.next.eq(-1).all().item()  # generate() looks for the end of the text at each token

    def value(self):
        return float(self.out[-1].sum())


class TrainCnn:
    unit, item = "step", False

    def __init__(self, device):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 14 * 14, 64),
                                   nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 10)).to(device)
        self.x, self.y = seeded(64, 1, 28, 28).to(device), seeded(64, high=10).to(device)
        self.optimizer, self.loss = torch.optim.AdamW(self.model.parameters(), 1e-3), None

    def once(self):
        self.optimizer.zero_grad()
        self.loss = F.cross_entropy(self.model(self.x), self.y)
        self.loss.backward()
        self.optimizer.step()
        if self.item:
            self.loss.item()

    def value(self):
        return float(self.loss.detach())


class TrainCnnItem(TrainCnn):
    item = True


class Taken(Exception):
    """A model of the conformance suite, with its batch and its loss, instead of being compared."""


class TrainModel:
    """Any of tests/conformance/models_client.py by its name there: small widths, the real structure."""
    unit = "step"

    def __init__(self, device, name):
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "conformance"))
        import models_client

        def take(*arguments, **_):
            raise Taken(*arguments)

        with mock.patch.object(models_client, "same", take):
            try:
                getattr(models_client, name)()
            except Taken as taken:
                model, batch, self.loss_of = taken.args[:3]
        self.model, self.batch = model.to(device).train(), models_client.moved(batch, device)
        self.optimizer, self.loss = torch.optim.AdamW(self.model.parameters(), 1e-5), None

    def once(self):
        self.optimizer.zero_grad()
        self.loss = self.loss_of(self.model, self.batch)
        self.loss.backward()
        self.optimizer.step()

    def value(self):
        return float(self.loss.detach())


class Add:
    unit = "op"

    def __init__(self, device):
        self.a = torch.ones(64, 64).to(device)

    def once(self):
        self.b = torch.add(self.a, self.a)

    def value(self):
        return float(self.b.sum())


class Copy:
    unit = "copy"

    def __init__(self, device, direction, size):
        n = int(size)
        self.host = torch.arange(n // 4, dtype=torch.int32)
        self.there, self.up = self.host.to(device), direction == "h2d"

    def once(self):
        if self.up:
            self.there.copy_(self.host)
        else:
            self.host.copy_(self.there)

    def value(self):
        return float(self.there[-1])


CASES = dict(gpt=TrainGpt, gpt_item=TrainGptItem, decode=Decode, cnn=TrainCnn, cnn_item=TrainCnnItem, model=TrainModel, add=Add, copy=Copy)


def main():
    device, answers = sys.argv[1], sys.stdout
    sys.stdout = sys.stderr
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    counters = None
    if device == "cuda":
        assert torch.cuda.is_available(), "no device: is the server running?"
        from counters import Counters
        counters = Counters()
    cases = {}
    for line in sys.stdin:
        request = json.loads(line)
        torch.set_num_threads(request.get("threads", torch.get_num_threads()))
        name = request["case"]
        kind, *arguments = name.split(":")
        if name not in cases:
            cases[name] = CASES[kind](device, *arguments)
        case, repeat = cases[name], request["repeat"]
        wait()
        before = counters.read() if counters else {}
        begin = time.perf_counter()
        for _ in range(repeat):
            case.once()
        posted = time.perf_counter()
        after = counters.read() if counters else {}
        wait()
        end = time.perf_counter()
        answer = dict(seconds=(end - begin) / repeat, front=(posted - begin) / repeat, unit=case.unit,
                      counters={k: (after[k] - before[k]) / repeat for k in after}, value=case.value())
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
