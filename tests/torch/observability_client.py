"""A small GPT on the device: training steps, then a prefill and decode steps with a cache, then it waits for the end of its stdin. Prints how many FLOPs
torch.utils.flop_counter counts for what it does, and what it is."""
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH, HEADS, LAYERS, CHARACTERS, LENGTH, STEPS, TOKENS = 32, 4, 2, 40, 16, 3, 5


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, past):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, WIDTH // HEADS).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(WIDTH, 2))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), (k, v)


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(CHARACTERS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, ids, cache=None):
        x, kept = self.token(ids), []
        for i, block in enumerate(self.blocks):
            x, kv = block(x, cache[i] if cache else None)
            kept.append(kv)
        return self.head(x), kept


def train(model, optimizer, ids):
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits, _ = model(ids[:, :-1])
        F.cross_entropy(logits.reshape(-1, CHARACTERS), ids[:, 1:].reshape(-1)).backward()
        optimizer.step()


@torch.no_grad()
def generate(model, ids):
    logits, cache = model(ids)
    for _ in range(TOKENS):
        logits, cache = model(logits[:, -1:].argmax(-1), cache)
    return logits.sum().item()


torch.manual_seed(0)
model = Gpt().to("cuda")
ids = torch.randint(CHARACTERS, (2, LENGTH + 1)).to("cuda")
train(model, torch.optim.AdamW(model.parameters(), foreach=True), ids)
generate(model, ids[:, :8])
print("ready", flush=True)
sys.stdin.read()
