"""Reading 3.3 (ALiBi, arXiv 2108.12409): train short, test long.

One tiny decoder of GPT-2's blocks reads the King James Bible in rows of 64 and of 128 tokens, three times: with learned
positions, with waves, and with none but scores that fall with the distance (ALiBi). Then all read the same held-out
stretches in rows of up to 1,024 tokens. A learned position that no row has had is still as it was drawn.
"""

import math

import torch
from m1_parts import learn, options, tell
from m2_parts import verdict
from m3_architecture_parts import reader, stream, surprise

from groundup.core import plots
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.positions import Alibi, Sinusoidal
from groundup.nn.stack import Decoder
from groundup.training.objective import causal_loss
from groundup.training.start import begin

LONGEST, LAYERS, WIDTH, HEADS = 1024, 4, 96, 4
WAYS = ("ALiBi", "learned", "waves")

given = options(__file__, __doc__)
trained, steps = ((64,), 4) if given.quick else ((64, 128), 1000)
lengths = (64, 128) if given.quick else (64, 128, 256, 512, 1024)
words = reader(given, "words", "gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 1, "n_positions": 64}, steps=8).words


def network(way: str) -> Decoder:
    places = {"learned": Embedding(LONGEST, WIDTH), "waves": Sinusoidal(WIDTH)}.get(way)

    def block() -> Block:
        attention = Attention(WIDTH, heads=HEADS, causal=True, score_bias=Alibi(HEADS) if way == "ALiBi" else None)
        halves = ("attn", attention), ("mlp", MLP(WIDTH, 4 * WIDTH, act="gelu"))
        return Block(*(Branch(name, part, before=LayerNorm(WIDTH, eps=1e-5)) for name, part in halves))

    tokens, head = Embedding(words.vocab_size, WIDTH), Linear(WIDTH, words.vocab_size, bias=False)
    tie(head, tokens)
    embed = Embed(tokens, positions=places, scale=math.sqrt(WIDTH))  # tokens as large as waves, for all three
    made = Decoder(embed, [block() for _ in range(LAYERS)], norm=LayerNorm(WIDTH, eps=1e-5), head=head)
    begin(made)
    return made


found: dict[str, list[float]] = {}
for length in trained:
    read = stream(words, length, held_out=False)
    order = torch.randperm(len(read), generator=torch.Generator().manual_seed(0)).tolist()
    for way in WAYS:
        made = network(way)

        def loss(step: int, made: Decoder = made, read: list = read, order: list = order) -> torch.Tensor:
            total, count = causal_loss(made, [read[order[(16 * step + i) % len(order)]] for i in range(16)])
            return total / count

        learn(made, loss, steps=steps, rate=lambda step: 3e-3 * min(1.0, step / 50, 2 * (1 - step / steps)), beta2=0.95)
        rows = {n: stream(words, n) for n in lengths}
        tokens = len(rows[lengths[-1]]) * lengths[-1] // (4 if given.quick else 1)  # the same for every length
        found[f"{way}, {length}"] = [math.exp(surprise(made, rows[n][: tokens // n])) for n in lengths]

claims = {}
for length in trained:
    alibi, learned, waves = (found[f"{way}, {length}"] for way in WAYS)
    at = lengths.index(length)
    claims[f"trained at {length}: ALiBi is no worse on longer rows"] = max(alibi[at + 1 :]) <= alibi[at] * 1.01
    for name, other in (("learned positions", learned), ("waves", waves)):
        claims[f"trained at {length}: {name} at least double at {lengths[-1]}"] = other[-1] >= 2 * other[at]
        claims[f"trained at {length}: ALiBi within 5 % of {name} at {length}"] = alibi[at] <= 1.05 * other[at]
plots.curves({name: list(zip(lengths, some, strict=True)) for name, some in found.items()}, given.out / "alibi.png",
             title="Perplexity of the held-out Bible by the length that is read", across="tokens a row",
             down="perplexity",
             powers="x")  # fmt: skip
lines = [(name, *(f"{p:.1f}" for p in some)) for name, some in found.items()]
tell(given.out, ("positions, trained at", *(f"{n:,}" for n in lengths)), lines,
     {"lengths": lengths, "perplexity": found, "claims": claims})  # fmt: skip
verdict(claims)
