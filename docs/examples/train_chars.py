"""Trains a small GPT, character by character, on the source text of Python's standard library, and lets it write some Python at the end.

    python train_chars.py --device cpu
    python train_chars.py --device cuda

Matrix products run in bfloat16 (autocast) unless --float32 is given. Initial weights, batches and the dice of the sampling are the CPU's random
numbers, so that two devices start from the same place and see the same text.
"""
import argparse
import pathlib
import sysconfig
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

SOURCES = ("argparse", "ast", "bisect", "calendar", "cmd", "collections/__init__", "configparser", "contextlib", "copy", "csv", "dataclasses", "datetime",
           "difflib", "enum", "fractions", "functools", "heapq", "inspect", "json/decoder", "json/encoder", "logging/__init__", "pathlib", "queue",
           "random", "shutil", "socketserver", "statistics", "string", "subprocess", "tarfile", "textwrap", "threading", "tokenize", "typing")


def library_text():
    """The named files of the standard library, one after another; what is not ASCII is left out."""
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    text = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in SOURCES)
    return "".join(c for c in text if c == "\n" or " " <= c <= "~")


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, characters, width=128, heads=4, layers=4, context=64):
        super().__init__()
        self.context = context
        self.token, self.place = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters, bias=False)
        for embedding in (self.token, self.place):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, ids):
        x = self.token(ids) + self.place(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batches(ids, context, size, generator):
    """Endless random windows of the text, each with the same window one character later."""
    while True:
        starts = torch.randint(len(ids) - context - 1, (size,), generator=generator)
        windows = ids[starts[:, None] + torch.arange(context + 1)]
        yield windows[:, :-1], windows[:, 1:]


def sample(model, prompt, count, temperature, generator, autocast, device):
    """`count` more character numbers after `prompt`; temperature 0 always takes the likeliest."""
    model.eval()
    ids = prompt.tolist()
    with torch.no_grad():
        for _ in range(count):
            window = torch.tensor([ids[-model.context:]]).to(device)
            with autocast():
                logits = model(window)[0, -1].float().cpu()
            if temperature == 0:
                ids.append(logits.argmax().item())
            else:
                ids.append(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator).item())
    return ids


def train(model, optimizer, stream, autocast, options):
    """Returns the loss of every step. They stay on the device until a progress line is due."""
    history, waiting, begin = [], [], time.perf_counter()
    model.train()
    for step in range(1, options.steps + 1):
        x, y = (t.to(options.device, non_blocking=True) for t in next(stream))
        with autocast():
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        waiting.append(loss.detach())
        if step % options.report == 0 or step == options.steps:
            latest = torch.stack(waiting).tolist()
            history, waiting = history + latest, []
            print(f"step {step:4}/{options.steps}  loss {sum(latest) / len(latest):.4f}  {time.perf_counter() - begin:5.1f} s", flush=True)
    return history


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--report", type=int, default=25, metavar="N", help="a progress line every N steps")
    parser.add_argument("--autocast", action=argparse.BooleanOptionalAction, default=True, help="matrix products in bfloat16")
    parser.add_argument("--float32", dest="autocast", action="store_false", help="the same as --no-autocast")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", metavar="FILE", help="write the loss of every step there, one per line")
    parser.add_argument("--sample", type=int, default=200, metavar="N", help="characters to write at the end")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy")
    options = parser.parse_args()

    text = library_text()
    alphabet = sorted(set(text))
    number = {c: i for i, c in enumerate(alphabet)}
    ids = torch.tensor([number[c] for c in text])
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    model = Gpt(len(alphabet)).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    kind = torch.device(options.device).type

    def autocast():
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=options.autocast)

    name = torch.cuda.get_device_name() if kind == "cuda" else "CPU"
    precision = "bfloat16 autocast" if options.autocast else "float32"
    print(f"{len(text)} characters, {sum(p.numel() for p in model.parameters())} parameters, {precision}, on {name}", flush=True)
    history = train(model, optimizer, batches(ids, model.context, options.batch, generator), autocast, options)
    if options.losses:
        with open(options.losses, "w") as file:
            file.writelines(f"{loss!r}\n" for loss in history)
    prompt = torch.tensor([number[c] for c in "\ndef "])
    written = sample(model, prompt, options.sample, options.temperature, generator, autocast, options.device)
    print("".join(alphabet[i] for i in written).strip())


if __name__ == "__main__":
    main()
