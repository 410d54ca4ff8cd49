"""Phases and residencies against the truth: what the server says that a program is doing (hooks/torch/meaning.cpp, by way of `--stats`), against what
the program itself knows. The truth never comes from the detector: a step is a prefill because this script gave it a prompt and an empty cache; a
tensor is a weight because the model lists it, a cache because the model returned it, an activation because autograd says that it saved it. See suite.py.

Each step is compared by itself: the server must have counted one more step of the very phase, and the sum of no class of memory at its end may differ
from the truth by more than 1 % of all bytes. Sums by class are compared, not storage by storage: two that were mistaken for each other would not show.
"""
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import torch

from harness import SERVER, clean_environment
from parts import VOCABULARY, library, moved, seeded, tokens
from suite import case, main

warnings.filterwarnings("ignore")
RIGHT = 0.99   # of the bytes, by the sums of their classes
SUMS = 0.06    # seconds: the hook sums up at the end of a step when the last sum is 50 ms old
CLASSES = ("persistent_weight", "ephemeral_activation", "stateful_kv_cache", "gradient", "optimizer_state", "input")


def told():
    """What the server says of this process."""
    torch.cuda.synchronize()
    done = subprocess.run([str(SERVER), "--stats", os.environ["DJINN_SERVER"]], capture_output=True, text=True, env=clean_environment(), timeout=30, check=True)
    return next(s for s in json.loads(done.stdout)["sessions"] if s["client_pid"] == os.getpid())["meaning"]


@dataclasses.dataclass
class Known:
    """Memory that is known by address and size alone: {address: bytes}."""
    sizes: dict


def storages(value, found=None):
    """{address: bytes} of the device memory in nested values; dicts, lists, caches and outputs of transformers included."""
    found = {} if found is None else found
    if isinstance(value, Known):
        found.update(value.sizes)
    elif isinstance(value, torch.Tensor):
        if value.is_cuda and value.numel():
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, dict):
        for v in value.values():
            storages(v, found)
    elif isinstance(value, (list, tuple)):
        for v in value:
            storages(v, found)
    elif hasattr(value, "layers"):  # a cache
        for layer in value.layers:
            storages([layer.keys, layer.values], found)
    elif hasattr(value, "self_attention_cache"):
        storages([value.self_attention_cache, value.cross_attention_cache], found)
    return found


class Watch:
    """Compares what the server says with what is true, step by step, and keeps the tally."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch
        self.steps = self.steps_right = 0
        self.bytes = {c: 0 for c in CLASSES}
        self.wrong = {c: 0 for c in CLASSES}
        self.seen = None

    def begin(self):
        time.sleep(SUMS)
        self.seen = told()["steps"]

    def end(self, *phases, optimizer=None, **classes):
        """The steps since begin() were these; `classes` are values by class, earlier classes of CLASSES before later ones."""
        now = told()
        got = {p: n - self.seen.get(p, 0) for p, n in now["steps"].items() if n != self.seen.get(p, 0)}
        expected = {p: phases.count(p) for p in phases}
        self.steps += len(phases)
        self.steps_right += sum(min(got.get(p, 0), n) for p, n in expected.items())
        assert got == expected, f"steps {got} instead of {expected}"
        truth = self.truth(optimizer, classes)
        for c in CLASSES:
            self.bytes[c] += truth[c]
            self.wrong[c] += abs(truth[c] - now["memory"].get(c, 0))
            if abs(truth[c] - now["memory"].get(c, 0)) > (1 - RIGHT) * sum(truth.values()):
                raise AssertionError(f"after {phases}: {c} {now['memory'].get(c, 0)} instead of {truth[c]}\n{now['memory']}\n{truth}")

    def truth(self, optimizer, classes):
        classes["persistent_weight"] = [list(self.model.parameters()), list(self.model.buffers())]
        classes["gradient"] = [p.grad for p in self.model.parameters() if p.grad is not None]
        classes["optimizer_state"] = [list(s.values()) for s in optimizer.state.values()] if optimizer else []
        classes["input"] = [self.batch, classes.get("input", [])]
        sums, taken = {}, set()
        for c in ("persistent_weight", "stateful_kv_cache", "gradient", "optimizer_state", "input", "ephemeral_activation"):
            found = {a: n for a, n in storages(classes.get(c, [])).items() if a not in taken}
            taken |= found.keys()
            sums[c] = sum(found.values())
        return sums

    def tally(self):
        total, wrong = sum(self.bytes.values()), sum(self.wrong.values())
        share = 1 - wrong / total
        assert share >= RIGHT, f"{share:.2%} of {total} bytes: wrong by class {self.wrong}"
        return f"steps {self.steps_right}/{self.steps}, bytes {share:.2%} of {total / 1e6:.1f} MB"


def trained(model, batch, loss_of, steps=3):
    """Forward, backward, optimizer, each looked at by itself. Activations are what autograd saved, and the outputs."""
    model, batch = model.cuda().train(), moved(batch, "cuda")
    watch, optimizer = Watch(model, batch), torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(steps):
        saved = []
        watch.begin()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(storages(t)), t)[1], lambda t: t):
            output, loss = loss_of(model, batch)
        kept = {a: n for s in saved for a, n in s.items()}
        watch.end("forward", optimizer=optimizer, ephemeral_activation=[Known(kept), output, loss])
        watch.begin()
        loss.backward()
        optimizer.step()
        watch.end("backward", "optimizer", optimizer=optimizer, ephemeral_activation=[output, loss])
        optimizer.zero_grad()
        del output, loss, saved, kept
    return watch


def of_output(name="loss", **more):
    def loss_of(model, batch):
        output = model(**batch, **more)
        return dict(output), output[name]
    return loss_of


def generates(watch, prompt, count=5):
    """A greedy loop of one's own: a prompt with an empty cache, then a token at a time."""
    model = watch.model.eval()
    with torch.no_grad():
        ids, cache, mask = prompt, None, torch.ones_like(prompt)
        for i in range(count):
            watch.begin()
            output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            watch.end("llm_prefill" if i == 0 else "llm_decode", stateful_kv_cache=cache, ephemeral_activation=[output.logits], input=[prompt, ids, mask])
            ids = output.logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            del output  # its logits would live at the end of the next step, and not after it


def generate_counts(model, prompt, count=6, **options):
    """transformers' own loop: one prefill, and a decode for each further token."""
    before = told()["steps"]
    model.generate(prompt, max_new_tokens=count, min_new_tokens=count, pad_token_id=0, **options)
    after = told()["steps"]
    got = {p: n - before.get(p, 0) for p, n in after.items() if n != before.get(p, 0)}
    assert got == {"llm_prefill": 1, "llm_decode": count - 1}, f"{options}: {got}"


def inferred(watch, phase, outputs_of):
    watch.model.eval()
    with torch.no_grad():
        for _ in range(2):
            watch.begin()
            outputs = outputs_of(watch.model, watch.batch)
            watch.end(phase, ephemeral_activation=outputs)
            del outputs


def language_model(model, **generation):
    ids = tokens(4, 24)
    watch = trained(model, dict(input_ids=ids, labels=ids.clone()), of_output())
    watch.model.zero_grad(set_to_none=True)
    prompt = tokens(2, 9).cuda()
    watch.batch = []
    generates(watch, prompt)
    for search in (dict(do_sample=False), dict(do_sample=True), dict(do_sample=False, num_beams=3)):
        generate_counts(watch.model, prompt, **search, **generation)
    generate_counts(watch.model, prompt, do_sample=False, cache_implementation="static", disable_compile=True)
    return watch.tally()


@case("GPT-2: training, a loop of one's own, generate (greedy, sampling, beams, static cache)", alone=True)
def gpt2():
    t = library("transformers")
    return language_model(seeded(lambda: t.GPT2LMHeadModel(t.GPT2Config(n_layer=3, n_head=4, n_embd=64, vocab_size=VOCABULARY, n_positions=64, bos_token_id=1, eos_token_id=2))))


@case("GPT-2 with attention written out (eager): the same", alone=True)
def gpt2_eager():
    t = library("transformers")
    config = t.GPT2Config(n_layer=2, n_head=4, n_embd=64, vocab_size=VOCABULARY, n_positions=64, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    return language_model(seeded(lambda: t.GPT2LMHeadModel(config)))


@case("Llama, grouped queries: training, a loop of one's own, generate", alone=True)
def llama():
    t = library("transformers")
    return language_model(seeded(lambda: t.LlamaForCausalLM(t.LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=8,
                                                                         num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=64, bos_token_id=1, eos_token_id=2))))


@case("BERT: training; evaluation is no prefill", alone=True)
def bert():
    t = library("transformers")
    model = seeded(lambda: t.BertForMaskedLM(t.BertConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, vocab_size=VOCABULARY)))
    ids = tokens(4, 24)
    watch = trained(model, dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.clone()), of_output())
    watch.model.zero_grad(set_to_none=True)
    inferred(watch, "forward", lambda m, b: m(**b).logits)
    return watch.tally()


@case("ViT: training; evaluation encodes images", alone=True)
def vit():
    t = library("transformers")
    model = seeded(lambda: t.ViTForImageClassification(t.ViTConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8, num_labels=7)))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    watch = trained(model, dict(pixel_values=images, labels=torch.arange(4)), of_output())
    watch.model.zero_grad(set_to_none=True)
    inferred(watch, "vision_encoding", lambda m, b: m(pixel_values=b["pixel_values"]).logits)
    return watch.tally()


@case("ResNet-18: training with batch norm; evaluation encodes images", alone=True)
def resnet():
    vision = library("torchvision")
    model = seeded(lambda: vision.models.resnet18(num_classes=7))
    batch = dict(x=torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), y=torch.tensor([1, 2]))

    def loss_of(model, b):
        logits = model(b["x"])
        return logits, torch.nn.functional.cross_entropy(logits, b["y"])
    watch = trained(model, batch, loss_of)
    watch.model.zero_grad(set_to_none=True)
    inferred(watch, "vision_encoding", lambda m, b: m(b["x"]))
    return watch.tally()


if __name__ == "__main__":
    main()
