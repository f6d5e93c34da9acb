"""A method of tuning of one's own in one file: VeRA (Kopiczko et al., arXiv 2310.11454), y + b * B (d * A x).

A and B are random, frozen and the same for all linears, so they follow from a seed; b [out] and d [rank] are trained.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import groundup as gu
from groundup.nn.storage import Dense
from groundup.nn.surgery import linears, match, shared
from groundup.peft.adapted import Part, parts, put
from groundup.peft.method import Method, refuse_settings, shapes
from groundup.peft.methods import PEFT_TYPES


class Vera(Part):
    def __init__(self, A, B):
        super().__init__()
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)
        self.d, self.b = nn.Parameter(torch.full([len(A)], 0.1)), nn.Parameter(torch.zeros(len(B)))

    def after(self, y, x, linear):
        A, B, d, b = (t.to(x.dtype) for t in (self.A, self.B, self.d, self.b))  # x may be bfloat16
        return y + (x @ A.T * d) @ B.T * b

    def folded(self, linear):
        linear.weight = Dense(linear.weight.dense() + self.b[:, None] * self.B @ (self.d[:, None] * self.A))
        return linear


@dataclass(frozen=True)
class VeRA(Method):
    kind, peft_type, learning_rate = "vera", "MY_VERA", 1e-2
    rank: int = 64
    targets: str = "attn.q attn.v"
    seed: int = 0

    def add(self, network, name, *, seed=0, encode=None):
        network, sizes = shared(network), shapes(network)
        paths, dice = match(list(linears(network)), self.targets), torch.Generator().manual_seed(self.seed)
        width, height = max(sizes[p][1] for p in paths), max(sizes[p][0] for p in paths)
        A = torch.randn(self.rank, width, generator=dice) / width**0.5
        B = torch.randn(height, self.rank, generator=dice) / self.rank**0.5
        for path in paths:
            put(network, path, name, Vera(A[:, : sizes[path][1]], B[: sizes[path][0]]))
        return network

    def written(self, network, name, rules):
        tensors = {
            f"{p}.{n}": t.detach() for p, part in parts(network, name).items() for n, t in part.named_parameters()
        }
        return {"rank": self.rank, "targets": self.targets, "seed": self.seed}, tensors

    @classmethod
    def read(cls, config, tensors, network, name, rules):
        refuse_settings(config, {"rank", "targets", "seed"}, {})
        made = cls(config["rank"], config["targets"], config["seed"])
        for path, part in parts(made.add(network, name), name).items():
            put(network, path, name, part)
            for n, parameter in part.named_parameters():
                parameter.requires_grad_(False).copy_(tensors[f"{path}.{n}"])
        return made


if __name__ == "__main__":
    PEFT_TYPES[VeRA.peft_type] = VeRA
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/vera")
    rows = [{"prompt": f"{n} and {n} are", "completion": f" {2 * n}."} for n in range(2, 90)]
    model = gu.adapt(gu.load("smollm2-135m-instruct"), VeRA(rank=32))
    run = gu.finetune(model, rows, out=out, steps=int(sys.argv[2]) if len(sys.argv) > 2 else 30)
    tuned = gu.load("smollm2-135m-instruct", adapter=run.out)
    print(
        tuned.method.described(tuned.network, tuned.adapter),
        f"; validation loss {run.first_loss:.3f} -> {run.best_loss:.3f}",
    )
    words = "21 and 21 are"
    apart = (gu.merge(tuned).logits(words) - tuned.logits(words)).abs().max()
    print(f"merged, the logits move by {apart:.1e}:", tuned.generate(words, max_tokens=3, temperature=0))
