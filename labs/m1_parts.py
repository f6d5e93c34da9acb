"""What the labs of module 1 share: the first Transformer's halves put together from groundup's parts, a plain loop, a table.

The course builds its encoder and decoder as Vaswani et al. (arXiv 1706.03762) do: attention, then two matrices with a ReLU
between them, and a LayerNorm on each sum. `Branch(..., after=norm)` says just that.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import groundup as gu
from groundup.inputs.tokenizer import Encoded
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.cache import Fresh
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.positions import Sinusoidal
from groundup.nn.stack import Decoder, Encoder
from groundup.peft.front import lay


def block(width: int, heads: int, inner: int, *, causal: bool = False) -> Block:
    """[ attn ─(+)─ norm ─ mlp ─(+)─ norm ]"""

    def branch(name: str, core: nn.Module) -> Branch:
        return Branch(name, core, after=LayerNorm(width, eps=1e-5))

    attention = branch("attn", Attention(width, heads=heads, causal=causal))
    return Block(attention, branch("mlp", MLP(width, inner, act="relu")))


def decoder(vocabulary: int, width: int, *, heads: int, inner: int, layers: int) -> Decoder:
    """The course's decoder: waves for positions, a head of its own that scores every word."""
    embed = Embed(Embedding(vocabulary, width), positions=Sinusoidal(width))
    blocks = [block(width, heads, inner, causal=True) for _ in range(layers)]
    return Decoder(embed, blocks, head=Linear(width, vocabulary))


def encoder(vocabulary: int, width: int, *, heads: int, inner: int, layers: int, places: int = 1000) -> Encoder:
    """The course's encoder: learned positions, and hidden states as its output."""
    embed = Embed(Embedding(vocabulary, width), positions=Embedding(places, width))
    return Encoder(embed, [block(width, heads, inner) for _ in range(layers)], head=None)


def count(network: nn.Module) -> int:
    """How many numbers a network has; a tied table counts once."""
    return sum(p.numel() for p in network.parameters())


def learn(
    network: nn.Module, loss: Callable[[int], Tensor], *, steps: int, rate: Callable[[int], float], beta2: float = 0.98
) -> list[tuple[float, float]]:
    """Train every number by AdamW on `loss(step)`; gives (step, loss) as it went."""
    network.requires_grad_().train()
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, beta2), weight_decay=0.0)
    went = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        one = loss(step)
        one.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        went.append((float(step), one.item()))
    network.eval()
    return went


def tokens(ids: list[int]) -> Encoded:
    """A row of which every token is learned from those before it."""
    return Encoded(ids, [True] * len(ids))


class Label(nn.Module):
    """One of several labels, read from the state of a row's last token by a linear layer (GPT-1)."""

    def __init__(self, network: Decoder, labels: int):
        super().__init__()
        self.network, self.out = network, nn.Linear(network.embed.tokens.width, labels)

    def forward(self, rows: Sequence[list[int]]) -> Tensor:
        ids, step, _ = lay(self.network, rows, Fresh())
        return self.out(self.network.run(ids, step)[torch.tensor(step.rows.starts[1:]) - 1])


def pretrained(recipe: Mapping[str, Any], out: Path, steps: int) -> gu.Model:
    """What came of a recipe in `out`; where the run is not finished there, it is done first, or gone on with."""
    begun = (out / "run.json").exists()
    if not (out / "done.json").exists():
        gu.pretrain(recipe, out=out, resume=begun, **({} if begun else {"steps": steps}))
    return gu.load(out)


def options(file: str, about: str | None) -> argparse.Namespace:
    """--quick and --out, the same for every lab."""
    name = Path(file).stem
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, with smaller numbers that prove little")
    parser.add_argument("--out", type=Path, default=Path("runs/labs") / name, help="folder of pictures and figures")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return given


def tell(out: Path, header: Sequence[str], lines: Sequence[Sequence[object]], facts: Mapping[str, object]) -> None:
    """Print a table, and keep the figures in `facts.json`."""
    cells = [list(header), *([str(cell) for cell in line] for line in lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    for line in cells:
        print("  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]))
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"\nfigures and pictures in {out}")
