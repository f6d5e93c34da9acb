"""Lab 2 (L2.1-L2.8): prompt tuning by random vectors and by a text, then LoRA, on fifty sayings, with the lab's printed counts.

What the lab's notebooks do wrong: `print_trainable_parameters()` prints and gives None, which is printed too;
`get_peft_model` changes the base, and the second notebook puts a LoRA onto a base that is wrapped already; and what is shown
as an improvement is an answer to rows that were trained on. Here the base is compared bit for bit, and rows are held out.
The lab's LoRA has one A for q, k and v together, as an adapter read from PEFT's file does; ours has an A each.
"""

from math import log
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from m1_parts import count, options, tell
from m2_parts import apart, around, bible, perplexity, spread, trained, tune, verdict

import groundup as gu
from groundup.core import plots
from groundup.data import rows
from groundup.inputs.tokenizer import Encoded
from groundup.models import bloom
from groundup.nn.cache import Fresh
from groundup.nn.surgery import shared
from groundup.peft.front import lay
from groundup.training.objective import causal_loss

ASKED, TEXT, LINEARS = "Two things are infinite: ", "Generate inspirational quotes", "attn.q attn.k attn.v"
PRINTED = {"the model": 559_214_592, "4 vectors": 4_096, "3 vectors": 3_072, "LoRA, one A": 98_304}
METHODS = {  # the lab's settings, but for the size of the model
    "prompt, 4 random": gu.Prompt(length=4),
    "prompt, 3 of a text": gu.Prompt(length=3, init="text", text=TEXT),
    "LoRA, rank 1": gu.LoRA(rank=1, alpha=1, targets=LINEARS, dropout=0.05),
}
HOW = {"epochs": 5, "batch": 8, "learning_rate": 3e-2, "schedule": "linear", "warmup": 0.0}


def counts() -> dict[str, int]:
    """BLOOMZ-560m without its weights, and what the lab's methods train of it."""
    config = bloom.Config(vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16)
    with torch.device("meta"):
        network = bloom.build(config)
        file = {f"base_model.model.transformer.h.{layer}.self_attention.query_key_value.lora_{half}.weight": torch.ones(size)
                for layer in range(24) for half, size in (("A", (1, 1024)), ("B", (3072, 1)))}  # fmt: skip
        fused = shared(network)
        methods = {f"{n} vectors": (gu.Prompt(length=n), gu.Prompt(length=n).add(network, "lab")) for n in (4, 3)}
        read = gu.LoRA.read({"r": 1, "lora_alpha": 1}, file, fused, "lab", bloom.hugging_face(config))
        each = gu.LoRA(rank=1, targets=LINEARS)
    methods |= {"LoRA, one A": (read, fused), "LoRA, an A each": (each, each.add(network, "lab"))}
    found = {n: sum(p.numel() for p in m.trained(tuned, "lab").values()) for n, (m, tuned) in methods.items()}
    return {"the model": count(network), **found}


@torch.inference_mode()
def reread(model: gu.Model) -> str:
    """The likeliest seven tokens, everything read anew for each."""
    ids = model.encode(ASKED)
    for _ in range(7):
        x, step, _ = lay(model.network, [ids], Fresh(), adapters=model.adapter)
        ids.append(int(model.network(x, step)[-1].argmax()))
    return model.words.decode(ids[-7:])


given = options(__file__, __doc__)
lm, found = bible(given), counts()
sayings = [{"text": i.record["text"]} for i in rows.Stream("fortunes").good()
           if i.record["topic"] in ("wisdom", "people") and len(i.record["text"]) < 300]  # fmt: skip
train, test = sayings[:50], sayings[50 : 70 if given.quick else 250]
weights = {name: p.clone() for name, p in lm.network.named_parameters()}
before, words = lm.logits(ASKED), {"untuned": lm.generate(ASKED, max_tokens=7)}
start = log(perplexity(lm, train)), log(perplexity(lm, test))
loss: dict[str, list[float]] = {}
seen: dict[str, list[float]] = {}
back, cached = [], []
for name, method in METHODS.items():
    for seed in range(2 if given.quick else 5):
        one = tune(lm, method, train, test, seed=seed, **HOW)
        loss.setdefault(name, []).append(one.loss)
        seen.setdefault(name, []).append(log(perplexity(one.model, train)))
    with TemporaryDirectory() as folder:
        again = gu.load(lm.origin.path, adapter=gu.save(one.model, Path(folder) / "adapter"))
        back.append(torch.equal(again.logits(ASKED), one.model.logits(ASKED)))
    words[name] = one.model.generate(ASKED, max_tokens=7)
    cached.append(reread(one.model) == words[name])

# --- the loss of rows side by side against that of each alone, by PyTorch, labels one place to the left
ids = [lm.encode(row["text"]) for row in test[:16]]
alone = sum(F.cross_entropy(lm.logits(row["text"])[:-1], torch.tensor(i[1:]), reduction="sum").item()
            for row, i in zip(test, ids, strict=False))  # fmt: skip
together, _ = causal_loss(lm.network, [Encoded(i, [True] * len(i)) for i in ids])
same = all(torch.equal(p, weights[name]) for name, p in lm.network.named_parameters())
random, text, _ = METHODS
claims = {
    f"the printed counts, {', '.join(f'{n:,}' for n in PRINTED.values())}": PRINTED.items() <= found.items(),
    "the held-out loss falls, by each method and with each seed": all(max(all_) < start[1] for all_ in loss.values()),
    "random vectors and a text end alike (two standard errors)": not apart(loss[random], loss[text]),
    "the base is what it was, bit for bit": same and torch.equal(lm.logits(ASKED), before),
    "an adapter that is read again gives the same logits, bit for bit": all(back),
    "the same words with a cache and without": all(cached),
    "the loss of 16 rows is the sum of each one's, to 1e-5": abs(float(together) - alone) < 1e-5 * alone,
}
names = ["untuned", *METHODS]
plots.panels(names, {"held-out loss": ([(start[1],) * 3, *map(around, loss.values())], "{:.3f}".format),
                     "loss on the 50 rows": ([(start[0],) * 3, *map(around, seen.values())], "{:.3f}".format)},
             given.out / "lab.png", title="Fifty sayings, learned by a reader of the Bible (nats a token)")  # fmt: skip
lines = [("untuned", "", f"{start[0]:.3f}", f"{start[1]:.3f}", ascii(words["untuned"]))]
lines += [(n, f"{trained(lm, m):,}", spread(seen[n]), spread(loss[n]), ascii(words[n])) for n, m in METHODS.items()]
print("of BLOOMZ-560m:", ", ".join(f"{name} {n:,}" for name, n in found.items()))
tell(given.out, (f"{len(train)} sayings, {len(test)} held out", "trained", "their loss", "held-out loss", f"{ASKED}..."),
     lines, {"counts": found, "untuned": start, "held out": loss, "on the rows": seen, "says": words, "claims": claims})  # fmt: skip
verdict(claims)
