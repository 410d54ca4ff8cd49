"""The programs that ablation.py compares, one per process: `ablation_client.py MODEL train|generate STEPS`. Prints what a step costs as one JSON line."""
import json
import pathlib
import sys
import time
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
warnings.filterwarnings("ignore")
import torch
import transformers as t

from counters import Counters

VOCABULARY, PROMPT = 500, 16
COMMON = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2)


def model_of(name):
    torch.manual_seed(0)
    if name == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(n_layer=4, n_head=4, n_embd=128, n_positions=128, **COMMON))
    if name == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                                                max_position_embeddings=128, **COMMON))
    if name == "bert":
        return t.BertForMaskedLM(t.BertConfig(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, vocab_size=VOCABULARY))
    raise SystemExit(f"no model {name}")


class Train:
    def __init__(self, model):
        self.model, self.optimizer = model.train(), torch.optim.AdamW(model.parameters(), 1e-3)
        self.ids = torch.randint(3, VOCABULARY, (4, 64), generator=torch.Generator().manual_seed(1)).cuda()

    def step(self):
        self.optimizer.zero_grad()
        self.model(input_ids=self.ids, labels=self.ids).loss.backward()
        self.optimizer.step()


class Generate:
    """One token. The device's values decide nothing here: blind, they are zeros."""

    def __init__(self, model):
        self.model, self.cache = model.eval(), None

    @torch.no_grad()
    def step(self):
        if self.cache is None or self.cache.get_seq_length() > 100:
            self.ids, self.cache = torch.randint(3, VOCABULARY, (1, PROMPT), generator=torch.Generator().manual_seed(1)).cuda(), None
        output = self.model(input_ids=self.ids, past_key_values=self.cache, use_cache=True)
        self.cache, self.ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
        self.ids.eq(2).all().item()  # as a loop that looks for the end


def main():
    name, work, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    case = dict(train=Train, generate=Generate)[work](model_of(name).cuda())
    counters = Counters()
    for _ in range(max(3, steps // 4)):
        case.step()
    torch.cuda.synchronize()
    before, begin = counters.read(), time.perf_counter_ns()
    marks = [begin]
    for _ in range(steps):
        case.step()
        marks.append(time.perf_counter_ns())
    after = counters.read()
    torch.cuda.synchronize()
    end = time.perf_counter_ns()
    print(json.dumps(dict(steps=steps, seconds=(end - begin) / 1e9 / steps, marks=[begin, end],
                          **{k: (after[k] - before[k]) / steps for k in ("frames", "bytes", "round_trips", "stalls", "ops", "calls", "posted")})))


if __name__ == "__main__":
    main()
