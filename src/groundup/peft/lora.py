"""LoRA as a method: its settings, and its file in PEFT's layout. The equation and the pairs are in `lowrank.py`.

In PEFT's layout a linear that is fused in the public file has one A for several of ours. Read from there, that A stays
one parameter and goes out at its rank; trained apart here, the A's stand one below the other and B is block-diagonal,
at the sum of the ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Entry, Rules
from groundup.nn.linear import Embedding
from groundup.nn.surgery import embeddings, linears, match, shared
from groundup.peft.adapted import parts, put
from groundup.peft.lowrank import LowRank, LowRows, add_length, lowranks, refuse_table, sizes_of, summed
from groundup.peft.method import PREFIX, Encode, Method, Net, refuse_settings, whole_groups

MOST_RANK = 4096
ENDS = (".lora_A.weight", ".lora_B.weight")  # of the two tensors of a linear in PEFT's files
TABLE_ENDS = (".lora_embedding_A", ".lora_embedding_B")  # and of a table of vectors

# Settings of PEFT's LoRA that are read, and those that must have one of these values since they change the mathematics.
READ = {
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "rank_pattern", "alpha_pattern",
    "fan_in_fan_out", "init_lora_weights", "layers_to_transform", "layers_pattern", "exclude_modules", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "runtime_config", "qalora_group_size",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "modules_to_save": (None, []),
    "lora_bias": (False,),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "arrow_config": (None,),
    "use_bdlora": (None, False),
    "ensure_weight_tying": (None, False),
}


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation (Hu et al., arXiv 2106.09685)."""

    kind: ClassVar[str] = "lora"
    peft_type: ClassVar[str] = "LORA"

    rank: int = 8
    """Inner width of the product."""

    alpha: float = 16.0
    """Strength: the product is multiplied by alpha / rank."""

    targets: str = "attn.q attn.v"
    """Which linears, by the ends of their names ("attn.q attn.v"), or all (but the head); embed.tokens is the embedding."""

    dropout: float = 0.0
    """The share of the input of A that training drops."""

    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) instead (arXiv 2312.03732)."""

    dora: bool = False
    """Learn the length of every weight's row beside its direction (arXiv 2402.09353)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank {self.rank}: LoRA needs a rank of at least 1")
        if not (math.isfinite(self.alpha) and self.alpha != 0):
            raise UsageError(f"alpha {self.alpha:g}: the adapter would have no effect; twice the rank is usual")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout}: give a share from 0 to below 1")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        network = shared(network)
        generator = torch.Generator().manual_seed(seed)
        sizes, tables = sizes_of(network), embeddings(network)
        found = match([*linears(network), *tables], self.targets)
        most = max(min(sizes[path]) for path in found)
        if self.rank > most:
            raise UsageError(f"rank {self.rank}: no target here has a rank above {most}, so give {most} at most")
        for path in found:
            out_features, in_features = sizes[path]
            if path in tables:
                refuse_table(network, path, dora=self.dora)
                b = torch.randn(out_features, self.rank, generator=generator)
                put(network, path, name, LowRows(torch.zeros(self.rank, in_features), b, scale=self.scale))
                continue
            bound = 1 / math.sqrt(in_features)
            a = torch.empty(self.rank, in_features).uniform_(-bound, bound, generator=generator)
            b = torch.zeros(out_features, self.rank)
            put(network, path, name, LowRank(a, b, scale=self.scale, dropout=self.dropout))
            if self.dora:
                add_length(network, path, name)
        return network

    def described(self, network: nn.Module, name: str) -> str:
        count = sum(p.numel() for p in self.trained(network, name).values())
        what = "DoRA" if self.dora else "LoRA"
        held = lowranks(network, name).values()
        places = "places" if any(isinstance(pair, LowRows) for pair in held) else "linears"
        return f"{what} rank {self.rank} on {len(held)} {places}: {count:,} trained numbers"

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        held, sizes = lowranks(network, name), sizes_of(network)
        plan = rules.modules(whole_groups(rules, list(held), sizes))
        if plan.unused:
            raise UsageError(f"PEFT's layout has no place for an adapter on {', '.join(plan.unused[:4])}")
        out: dict[str, Tensor] = {}
        ranks: dict[str, int] = {}
        alphas: dict[str, float] = {}
        for entry in plan.entries:
            (module,) = entry.sources
            a, b, scale = _joined(entry, held, sizes)
            ends = TABLE_ENDS if isinstance(held.get(entry.targets[0]), LowRows) else ENDS
            out.update({f"{PREFIX}{module}{end}": t for end, t in zip(ends, (a, b), strict=True)})
            if self.dora:
                lengths = [_length(held.get(t), sizes[t], t) for t in entry.targets]
                (length,) = entry.inverse([each[:, None] for each in lengths])
                out[f"{PREFIX}{module}.lora_magnitude_vector"] = length[:, 0].float().contiguous()
            if len(a) != self.rank:
                ranks[module] = len(a)
            alpha = scale * (math.sqrt(len(a)) if self.rank_stabilized else len(a))
            if not math.isclose(alpha, self.alpha, rel_tol=1e-6):
                alphas[module] = alpha
        config = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilized,
            "use_dora": self.dora,
            "bias": "none",
            "init_lora_weights": True,
            "modules_to_save": None,
            "fan_in_fan_out": False,
            "target_modules": sorted(m for e in plan.entries for m in e.sources),
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
        }
        return config, out

    @classmethod
    def combined(cls, network: nn.Module, weights: Mapping[str, float], name: str, *, rank: int | None = None) -> LoRA:
        """Σ w_i s_i B_i A_i: exact at the sum of the ranks (PEFT's `cat`), or the nearest of a rank (PEFT's `svd`)."""
        held = {each: lowranks(network, each) for each in weights}
        paths = dict.fromkeys(path for pairs in held.values() for path in pairs)
        kept: dict[Any, nn.Parameter] = {}
        made = {
            path: summed([(w, held[each][path]) for each, w in weights.items() if path in held[each]], rank, kept)
            for path in paths
        }
        for path, pair in made.items():
            put(network, path, name, pair.requires_grad_(False))
        most = max(len(pair.a) for pair in made.values())
        return cls(rank=most, alpha=float(most), targets=" ".join(made))

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> LoRA:
        for key in ("r", "lora_alpha"):
            if not isinstance(config.get(key), int | float) or config[key] <= 0:
                raise UsageError(f"adapter_config.json says {key} = {config.get(key)!r}")
        refuse_settings(config, READ, NEUTRAL)
        waiting, known, tables = set(tensors), sizes_of(network), embeddings(network)
        waiting -= _same_tables(tensors, tables, rules)
        for key in sorted(n for n in tensors if n.endswith((ENDS[0], TABLE_ENDS[0]))):
            ends = ENDS if key.endswith(ENDS[0]) else TABLE_ENDS
            other = key.removesuffix(ends[0]) + ends[1]
            module = key.removeprefix(PREFIX).removesuffix(ends[0])
            entry = rules.module(module)
            if other not in waiting or entry is None:
                raise GroundupError(f"{key} has {f'no {ends[1][1:]}' if entry else 'no place in this model'}")
            waiting -= {key, other}
            a, b = tensors[key], tensors[other]
            rank = _pattern(config, "rank_pattern", module, config["r"])
            alpha = _pattern(config, "alpha_pattern", module, config["lora_alpha"])
            if len(a) != rank or b.shape[1] != rank or rank > MOST_RANK:
                raise GroundupError(f"{module} has rank {len(a)}, its settings say {rank}")
            lengths: list[Tensor | None] = [None] * len(entry.targets)
            if config.get("use_dora"):
                length = f"{PREFIX}{module}.lora_magnitude_vector"
                length = length if length in waiting else f"{length}.weight"
                if length not in waiting:
                    raise GroundupError(f"{module} has no lora_magnitude_vector, and its settings say use_dora")
                waiting.remove(length)
                lengths = [t[:, 0] for t in entry.forward([tensors[length].flatten()[:, None]])]
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            one = nn.Parameter(a, requires_grad=False)
            for target, part, length_of in zip(entry.targets, entry.forward([b]), lengths, strict=True):
                if target not in known:
                    raise GroundupError(f"{module} is {target} here, and this model has no such linear")
                if (target in tables) != (ends is TABLE_ENDS):
                    raise GroundupError(f"{key} and this model's {target} are not of one kind: another base")
                wanted = known[target]
                if (part.shape[0], a.shape[1]) != wanted:
                    raise GroundupError(
                        f"{module} is for a linear of {part.shape[0]}x{a.shape[1]}, this model's is "
                        f"{wanted[0]}x{wanted[1]}: the adapter belongs to another base"
                    )
                if target in tables:
                    refuse_table(network, target, dora=bool(config.get("use_dora")))
                    pair: LowRank = LowRows(one, part.clone(), scale=scale)
                else:
                    dropout = config.get("lora_dropout", 0.0)
                    pair = LowRank(one, part.clone(), scale=scale, dropout=dropout, length=length_of)
                put(network, target, name, pair.requires_grad_(False))
        if waiting:
            raise GroundupError(f"{len(waiting)} tensors have no place: {', '.join(sorted(waiting)[:4])}")
        return cls(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            targets=" ".join(parts(network, name)),
            dropout=float(config.get("lora_dropout", 0.0)),
            rank_stabilized=bool(config.get("use_rslora", False)),
            dora=bool(config.get("use_dora", False)),
        )


def _same_tables(tensors: Mapping[str, Tensor], tables: Mapping[str, Embedding], rules: Rules) -> set[str]:
    """The names of whole tables in a file: PEFT puts them beside a pair for them. GroundupError for other numbers."""
    found = set()
    for key in tensors:
        module = key.removeprefix(PREFIX).removesuffix(".base_layer.weight")
        entry = rules.module(module) if key.endswith(".base_layer.weight") else None
        if entry is None or entry.targets[0] not in tables:
            continue
        ours = tables[entry.targets[0]].weight.dense().float()
        if ours.shape != tensors[key].shape or not torch.allclose(ours, tensors[key], atol=1e-2, rtol=1e-2):
            raise GroundupError(f"{module}: the file brings {list(tensors[key].shape)} other vectors than this base's")
        found.add(key)
    return found


def _length(pair: LowRank | None, size: tuple[int, int], path: str) -> Tensor:
    if pair is None or pair.length is None:
        raise UsageError(f"PEFT's layout keeps DoRA's lengths of whole linears: put it on {path} too")
    return pair.length.detach()


def _joined(
    entry: Entry, held: Mapping[str, LowRank], sizes: Mapping[str, tuple[int, int]]
) -> tuple[Tensor, Tensor, float]:
    """A, B and the scale of one public module."""
    members = [held.get(t) for t in entry.targets]
    present = [m for m in members if m is not None]
    scale = present[0].scale
    if any(not math.isclose(m.scale, scale) for m in present):
        raise UsageError(f"{entry.sources[0]}: its parts have adapters of different strength, PEFT's layout holds one")
    one = all(m.a is present[0].a for m in present) and len(present) == len(members)
    if one:
        a = present[0].a.detach()
        blocks = [m.b.detach() for m in present]
    else:
        a = torch.cat([m.a.detach() for m in present])
        blocks, before = [], 0
        for member, target in zip(members, entry.targets, strict=True):
            wide = a.new_zeros(sizes[target][0], len(a))
            if member is not None:
                rank = len(member.a)
                wide[:, before : before + rank] = member.b.detach()
                before += rank
            blocks.append(wide)
    (b,) = entry.inverse(blocks)
    return a.float().contiguous(), b.float().contiguous(), scale


def _pattern(config: Mapping[str, Any], key: str, module: str, default: float) -> Any:
    """A module's own rank or strength, as PEFT finds it: the first key that is an expression for the name or its end."""
    for pattern, value in (config.get(key) or {}).items():
        if (
            not isinstance(pattern, str)
            or re.search(r"[^\w.^$|\\*+-]", pattern)
            or len(re.findall("[*+]", pattern)) > 2
        ):
            raise UsageError(f"{key}: {pattern!r} is more of an expression than is read here; write the names out")
        try:
            hit = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as e:
            raise UsageError(f"{key}: {pattern!r} is no expression: {e}") from None
        if hit:
            return value
    return default
