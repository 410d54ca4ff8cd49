"""Models with random weights from fixed seeds, each trained for three steps and evaluated on the device and on the CPU of the same process, where Djinn
has no part: losses equal within 1e-4, logits within assert_close's float32 defaults widened to 1e-4, generated tokens equal. See suite.py.

A model is a builder (seeded outside) and its batch; the widths are small, the structure is the real one.
"""
import copy
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

from parts import VOCABULARY, library, moved, seeded, tokens
from suite import Skip, case, compare, main

warnings.filterwarnings("ignore")
STEPS = 3
LOSS = 1e-4  # relative
# At 1e-3 the third loss of four images is nearly 0, and Adam's first steps turn the rounding of a gradient's sign into 1e-4 of it, on some processors.
RESNET_RATE = 1e-4


def train(model, batch, loss_of, rate=1e-3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def same(model, batch, loss_of, outputs_of, loss=LOSS, close=1e-4, rate=1e-3):
    """Trains and evaluates a copy of the model on each side. Returns the two trained models."""
    trained, results = {}, {}
    for device in ("cpu", "cuda"):
        own, data = copy.deepcopy(model).to(device), moved(batch, device)
        own.eval()
        with torch.no_grad():
            before = outputs_of(own, data)
        own.train()
        results[device] = [before, train(own, data, loss_of, rate)]
        trained[device] = own.eval()
    compare(results["cuda"][1], results["cpu"][1], rtol=loss, atol=0, where="loss")
    compare(results["cuda"][0], results["cpu"][0], rtol=close, atol=close, where="logits")
    return trained


def generated(trained, prompt, **more):
    """Greedy and beam search give the CPU's tokens; sampling gives the same twice for one seed, and other tokens for another."""
    options = dict(max_new_tokens=12, pad_token_id=0, **more)
    for search in (dict(do_sample=False), dict(do_sample=False, num_beams=3)):
        texts = [trained[d].generate(**moved(prompt, d), **search, **options).cpu() for d in ("cpu", "cuda")]
        compare(texts[1], texts[0], where=str(search))
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(trained["cuda"].generate(**moved(prompt, "cuda"), do_sample=True, top_k=50, temperature=1.5, **options).cpu())
    assert torch.equal(drawn[0], drawn[1]), "one seed, two samples"
    assert not torch.equal(drawn[0], drawn[2]), "two seeds, one sample"


def language_model(name, **config):
    """A decoder by transformers' own class: Config, ForCausalLM."""
    t = library("transformers")
    settings = getattr(t, name + "Config")(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **config)
    model = seeded(getattr(t, name + ("LMHeadModel" if name == "GPT2" else "ForCausalLM")), settings)
    ids = tokens(2, 24)
    trained = same(model, dict(input_ids=ids, labels=ids), lambda m, b: m(**b).loss, lambda m, b: m(input_ids=b["input_ids"]).logits)
    prompt = ids[:, :8]
    generated(trained, dict(input_ids=prompt, attention_mask=torch.ones_like(prompt)))


@case("GPT-2: training, logits, greedy, beam, sampling")
def gpt2():
    language_model("GPT2", n_embd=64, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)


LLAMA = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)


@case("Llama: grouped queries, rotary positions, RMSNorm")
def llama():
    language_model("Llama", **LLAMA)


@case("Mistral: a sliding window shorter than the text")
def mistral():
    language_model("Mistral", sliding_window=8, **LLAMA)


@case("Llama in bfloat16: losses within bfloat16's resolution")
def llama_bfloat16():
    t = library("transformers")
    model = seeded(t.LlamaForCausalLM, t.LlamaConfig(vocab_size=VOCABULARY, **LLAMA)).bfloat16()
    ids = tokens(2, 24)
    same(model, dict(input_ids=ids, labels=ids), lambda m, b: m(**b).loss, lambda m, b: m(input_ids=b["input_ids"]).logits, loss=2e-2, close=5e-2)


@case("BERT: masked language model with padding")
def bert():
    t = library("transformers")
    config = t.BertConfig(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
                          max_position_embeddings=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    ids, mask = tokens(3, 20), torch.ones(3, 20, dtype=torch.long)
    mask[1, 12:], mask[2, 5:] = 0, 0
    labels = torch.where(torch.rand(3, 20, generator=torch.Generator().manual_seed(2)) < 0.3, ids, -100)
    same(seeded(t.BertForMaskedLM, config), dict(input_ids=ids, attention_mask=mask, labels=labels), lambda m, b: m(**b).loss,
         lambda m, b: m(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits)


@case("T5: encoder and decoder, relative positions, generation")
def t5():
    t = library("transformers")
    config = t.T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0, decoder_start_token_id=0)
    ids, labels = tokens(2, 18), tokens(2, 10, seed=3)
    trained = same(seeded(t.T5ForConditionalGeneration, config), dict(input_ids=ids, labels=labels), lambda m, b: m(**b).loss, lambda m, b: m(**b).logits)
    generated(trained, dict(input_ids=ids, attention_mask=torch.ones_like(ids)))


@case("ViT: image classification")
def vit():
    t = library("transformers")
    config = t.ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8, num_labels=7,
                         hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    same(seeded(t.ViTForImageClassification, config), dict(pixel_values=images, labels=torch.tensor([0, 3, 6, 2])), lambda m, b: m(**b).loss,
         lambda m, b: m(pixel_values=b["pixel_values"]).logits)


@case("Whisper: audio encoder, text decoder, generation")
def whisper():
    t = library("transformers")
    config = t.WhisperConfig(vocab_size=VOCABULARY, num_mel_bins=16, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                             decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=40, max_target_positions=32, dropout=0,
                             bos_token_id=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None)
    features = torch.randn(2, 16, 80, generator=torch.Generator().manual_seed(1))
    trained = same(seeded(t.WhisperForConditionalGeneration, config), dict(input_features=features, labels=tokens(2, 9)), lambda m, b: m(**b).loss,
                   lambda m, b: m(**b).logits)
    generated(trained, dict(input_features=features, attention_mask=torch.ones(2, 80, dtype=torch.long)))


class Denoiser(nn.Module):
    """A small UNet of the diffusion kind: time embedding, residual blocks with group norm, attention at the bottom, skip connections."""

    class Block(nn.Module):
        def __init__(self, inputs, outputs, time):
            super().__init__()
            self.norms = nn.ModuleList([nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)])
            self.convs = nn.ModuleList([nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)])
            self.time, self.skip = nn.Linear(time, outputs), nn.Conv2d(inputs, outputs, 1)

        def forward(self, x, t):
            h = self.convs[0](F.silu(self.norms[0](x))) + self.time(F.silu(t))[:, :, None, None]
            return self.skip(x) + self.convs[1](F.silu(self.norms[1](h)))

    def __init__(self, width=16, time=32):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.down = nn.ModuleList([self.Block(width, width, time), self.Block(width, 2 * width, time)])
        self.bottom = self.Block(2 * width, 2 * width, time)
        self.norm, self.qkv, self.out = nn.GroupNorm(4, 2 * width), nn.Conv2d(2 * width, 6 * width, 1), nn.Conv2d(2 * width, 2 * width, 1)
        self.up = nn.ModuleList([self.Block(4 * width, width, time), self.Block(2 * width, width, time)])

    def attend(self, x):
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, 4, c // 4, h * w).transpose(-1, -2).unbind(1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, h, w))

    def forward(self, x, steps):
        angles = steps[:, None].float() * torch.exp(-torch.arange(self.width // 2, device=x.device) * 0.5)
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        a = self.down[0](self.first(x), t)
        b = self.down[1](F.avg_pool2d(a, 2), t)
        m = self.attend(self.bottom(F.max_pool2d(b, 2), t))
        u = self.up[0](torch.cat([F.interpolate(m, scale_factor=2, mode="nearest"), b], 1), t)
        u = self.up[1](torch.cat([F.interpolate(u, scale_factor=2, mode="bilinear"), a], 1), t)
        return self.last(F.silu(u))


@case("a denoising UNet: group norm, attention, up and down sampling")
def unet():
    g = torch.Generator().manual_seed(1)
    batch = [torch.randn(2, 3, 16, 16, generator=g), torch.tensor([3, 40]), torch.randn(2, 3, 16, 16, generator=g)]
    same(seeded(Denoiser), batch, lambda m, b: F.mse_loss(m(b[0], b[1]), b[2]), lambda m, b: m(b[0], b[1]))


def classification(m, b):
    return F.cross_entropy(m(b[0]), b[1])


@case("ResNet-18 of torchvision: batch norm in training and evaluation")
def resnet18():
    library("torchvision")
    from torchvision.models import resnet18 as build
    batch = [torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 5, 0, 7])]
    same(seeded(lambda: build(num_classes=8)), batch, classification, lambda m, b: m(b[0]), rate=RESNET_RATE)


@case("ResNet-18 with channels last")
def resnet18_channels_last():
    library("torchvision")
    from torchvision.models import resnet18 as build
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    same(seeded(lambda: build(num_classes=8).to(memory_format=torch.channels_last)), [images, torch.tensor([1, 5, 0, 7])], classification, lambda m, b: m(b[0]),
         rate=RESNET_RATE)


@case("a detection head: torchvision's roi_align, nms and batched_nms, proposals by score")
def detection():
    library("torchvision")
    from torchvision.ops import MultiScaleRoIAlign, RoIAlign, batched_nms, box_iou, nms

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
            self.align = RoIAlign(5, spatial_scale=0.25, sampling_ratio=2)
            self.score, self.shift = nn.Linear(16 * 25, 4), nn.Linear(16 * 25, 4)

        def forward(self, images, boxes):
            pooled = self.align(self.body(images), list(boxes)).flatten(1)
            return self.score(pooled), self.shift(pooled)

    g = torch.Generator().manual_seed(1)
    corners = torch.rand(2, 30, 4, generator=g) * 40
    boxes = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:] + 4], -1)
    classes = torch.randint(0, 4, (60,), generator=g)
    model, images = seeded(Head), torch.randn(2, 3, 96, 96, generator=g)

    def loss(m, b):
        scores, shifts = m(b[0], b[1].unbind())
        return F.cross_entropy(scores, b[2]) + F.smooth_l1_loss(shifts, torch.zeros_like(shifts))

    def detections(m, b):
        scores, shifts = m(b[0], b[1].unbind())
        found = b[1].flatten(0, 1) + shifts
        best, kind = scores.softmax(1).max(1)
        return [scores, nms(found, best, 0.3), batched_nms(found, best, kind, 0.5), box_iou(found[:10], found)]

    same(model, [images, boxes, classes], loss, detections)


@case("a Faster R-CNN of torchvision, two training steps with all four losses", slow=True)
def faster_rcnn():
    library("torchvision")
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator

    def build():
        body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 4, 1), nn.ReLU())
        body.out_channels = 16
        from torchvision.ops import MultiScaleRoIAlign
        return FasterRCNN(body, num_classes=3, min_size=64, max_size=96, rpn_anchor_generator=AnchorGenerator(((16, 32),), ((0.5, 1.0),)),
                          box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2))

    g = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 64, generator=g) for _ in range(2)]
    targets = [dict(boxes=torch.tensor([[4.0, 6.0, 40.0, 44.0]]), labels=torch.tensor([1])), dict(boxes=torch.tensor([[10.0, 3.0, 60.0, 30.0]]), labels=torch.tensor([2]))]
    model = seeded(build).eval()
    found = {}
    for device in ("cpu", "cuda"):
        own = copy.deepcopy(model).to(device)
        with torch.no_grad():
            found[device] = own(moved(images, device))
        own.train()
        torch.manual_seed(0)
        losses = own(moved(images, device), moved(targets, device))
        sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in own.parameters())
    compare(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-3, where="detections")


@case("LSTM and GRU with packed sequences, bidirectional, two layers")
def recurrent():
    lengths = [9, 6, 2]
    g = torch.Generator().manual_seed(1)
    batch = [torch.randn(3, 9, 10, generator=g), torch.tensor([0, 2, 1])]
    for kind in (nn.LSTM, nn.GRU):
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.out = kind(10, 16, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(32, 3)

            def forward(self, x):
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
                y, _ = nn.utils.rnn.pad_packed_sequence(self.net(packed)[0], batch_first=True)
                return self.out(y).sum(1)
        same(seeded(Tagger), batch, classification, lambda m, b: m(b[0]))


@case("an embedding-bag recommender, dense and sparse gradients")
def recommender():
    class Recommender(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            self.bags = nn.ModuleList([nn.EmbeddingBag(50, 8, mode=m, sparse=sparse) for m in ("sum", "mean")])
            self.dense, self.top = nn.Linear(6, 8), nn.Sequential(nn.Linear(3 + 8, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x, indices, offsets):
            features = torch.stack([self.dense(x).relu()] + [bag(i, o) for bag, i, o in zip(self.bags, indices, offsets)], 1)
            crossed = features @ features.transpose(1, 2)
            low = torch.tril_indices(3, 3, -1, device=x.device)
            return self.top(torch.cat([features[:, 0], crossed[:, low[0], low[1]]], 1)).squeeze(1)

    g = torch.Generator().manual_seed(1)
    x, wanted = torch.randn(5, 6, generator=g), torch.tensor([0.0, 1, 1, 0, 1])
    indices = [torch.randint(0, 50, (14,), generator=g) for _ in range(2)]
    offsets = [torch.tensor([0, 3, 4, 9, 12]), torch.tensor([0, 2, 2, 7, 10])]
    loss = lambda m, b: F.binary_cross_entropy_with_logits(m(b[0], b[1], b[2]), b[3])
    same(seeded(Recommender, False), [x, indices, offsets, wanted], loss, lambda m, b: m(b[0], b[1], b[2]))
    losses = {}
    for device in ("cpu", "cuda"):
        model, b = seeded(Recommender, True).to(device), moved([x, indices, offsets, wanted], device)
        sparse, dense = torch.optim.SparseAdam(list(model.bags.parameters()), lr=1e-2), torch.optim.Adam([*model.dense.parameters(), *model.top.parameters()], lr=1e-2)
        losses[device] = []
        for _ in range(STEPS):
            for o in (sparse, dense):
                o.zero_grad()
            value = loss(model, b)
            value.backward()
            for o in (sparse, dense):
                o.step()
            losses[device].append(value.item())
    compare(losses["cuda"], losses["cpu"], rtol=LOSS, atol=0, where="sparse loss")


@case("transformers' generation with a static cache, gradient checkpointing, save_pretrained and from_pretrained(device_map='cuda')")
def hub_features():
    import tempfile
    t = library("transformers")
    model = seeded(t.LlamaForCausalLM, t.LlamaConfig(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **LLAMA))
    ids = tokens(2, 12)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        try:
            there = t.LlamaForCausalLM.from_pretrained(folder, device_map="cuda")
        except (ImportError, ValueError) as e:  # device_map needs accelerate
            if "accelerate" not in str(e):
                raise
            there = t.LlamaForCausalLM.from_pretrained(folder).cuda()
    compare(there.state_dict(), model.state_dict(), rtol=0, atol=0, where="weights")
    texts = [m.generate(moved(ids, d), attention_mask=moved(torch.ones_like(ids), d), max_new_tokens=8, do_sample=False, cache_implementation="static", pad_token_id=0,
                        disable_compile=True).cpu() for m, d in ((model, "cpu"), (there, "cuda"))]
    compare(texts[1], texts[0], where="static cache")
    losses = []
    for m, d in ((model, "cpu"), (there, "cuda")):
        m.train()
        m.gradient_checkpointing_enable()
        losses.append(train(m, dict(input_ids=ids.to(d), labels=ids.to(d)), lambda m, b: m(**b).loss))
    compare(losses[1], losses[0], rtol=LOSS, atol=0, where="loss with checkpoints")


if __name__ == "__main__":
    main()
