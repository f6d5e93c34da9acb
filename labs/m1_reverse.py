"""Paper 1.1 (Attention Is All You Need, arXiv 1706.03762): the first Transformer reverses number words.

As in the paper: norms on the sums, ReLU, waves for positions, one table for both halves and the head, label smoothing 0.1, Adam
with beta2 0.98, and a rate that rises and then falls with the root of the step. Without positions the encoder reads a bag of
words, and nothing can be reversed but by luck.
"""

import torch
from m1_parts import count, learn, options, tell, transformer

from groundup.core import plots
from groundup.data import numbers, rows
from groundup.evaluation.metrics import measure
from groundup.inference.decode import answer
from groundup.inference.sampling import Sampling
from groundup.inputs.train import train_tokenizer
from groundup.training.seq2seq import encode_pairs, seq2seq_loss
from groundup.training.start import begin

given = options(__file__, __doc__)
width, layers, longest, steps, batch = (48, 1, 4, 250, 32) if given.quick else (128, 2, 8, 1500, 64)
warm = steps // 5
parts = numbers.parts(4000 if given.quick else 20000, 60 if given.quick else 500, tasks=["reverse"], longest=longest)
words = train_tokenizer((" ".join(row.values()) for row in parts["train"]), "word", vocabulary=50, specials="seq2seq")
pairs = encode_pairs(rows.read(parts["train"]), words, 64).rows
lengths = [len(row["completion"].split()) for row in parts["test"]]


def rate(step: int) -> float:
    """Equation 3 of the paper."""
    return width**-0.5 * min((step + 1) ** -0.5, (step + 1) * warm**-1.5)


def run(positions: bool) -> tuple[int, list[str]]:
    """How many numbers it has, and what it says to the test's prompts once it has learned."""
    network = transformer(words.vocab_size, width, heads=4, inner=4 * width, layers=layers, positions=positions)
    begin(network, seed=0)
    draw = torch.Generator().manual_seed(0)

    def loss(step: int) -> torch.Tensor:
        chosen = torch.randint(len(pairs), (batch,), generator=draw).tolist()
        found, n = seq2seq_loss(network, [pairs[i] for i in chosen], start=words.pad_id, smoothing=0.1)
        return found / n

    learn(network, loss, steps=steps, rate=rate)
    prompts = [words.encode(row["prompt"]) for row in parts["test"]]
    how = {"sampling": Sampling(max_tokens=longest + 2, temperature=0.0), "stop_ids": frozenset({words.eos_id})}
    done = answer(network, prompts, tokenizer=words, decoder_start=words.pad_id, batch=128, **how)
    return count(network), [one.text for one in done]


said = {name: run(positions) for name, positions in (("with positions", True), ("without", False))}
right = [row["completion"] for row in parts["test"]]
sizes, bars, lines, facts = sorted(set(lengths)), {}, [], {}
for name, (numbers_in_it, texts) in said.items():
    score = measure("exact-match", texts, right)
    at = [[i for i, n in enumerate(lengths) if n == size] for size in sizes]
    each = [measure("exact-match", [texts[i] for i in some], [right[i] for i in some]) for some in at]
    bars[name] = [(s.value, s.low, s.high) for s in each]
    lines.append((name, f"{numbers_in_it:,}", score, texts[0]))
    facts[name] = score.value
plots.bars(
    [f"{n} words" for n in sizes], bars, given.out / "right.png", title="Reversed without a mistake, 95 % intervals"
)
tell(given.out, ("", "numbers", "exact match", parts["test"][0]["prompt"]), lines, facts)
