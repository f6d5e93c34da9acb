"""LoRA: a frozen weight plus a trained product of two thin matrices (Hu et al., arXiv 2106.09685, eq. 3).

    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ        A [rank, in], B [out, rank], s = alpha / rank

With rank stabilisation s = alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732). With DoRA the columns of the sum keep
their direction and learn their length m (Liu et al., arXiv 2402.09353, eq. 5):  W' = m (W + s B A) / |W + s B A|.
B starts at zero and m at |W|, so nothing changes at the start.

A table of vectors [V, D] is a linear that is given ids, so it takes a pair as well, PEFT's `lora_embedding_A/B`:

    y = W[ids] + s · Aᵀ[ids] Bᵀ       A [rank, V] starts at zero, B [D, rank] does not

A head that is tied to the table stays the base's own, as in PEFT; merging unties the two.

In PEFT's layout a linear that is fused in the public file has one A for several of ours. Read from there, that A stays
one parameter and goes out at its rank; trained apart here, the A's stand one below the other and B is block-diagonal,
at the sum of the ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Entry, Rules
from groundup.kernels.plan import Hole, Plan, Register
from groundup.nn.linear import Embedding, Linear
from groundup.nn.stack import EncoderDecoder
from groundup.nn.storage import Dense
from groundup.nn.surgery import embeddings, linears, match, shared, weight_of
from groundup.peft.adapted import Part, parts, put
from groundup.peft.method import PREFIX, Encode, Method, Net, refuse_settings, shapes, whole_groups

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


class LowRank(Part):
    """The trained pair of one linear, and DoRA's lengths. Shapes: a [rank, in], b [out, rank], length [out]."""

    def __init__(self, a: Tensor, b: Tensor, *, scale: float, dropout: float = 0.0, length: Tensor | None = None):
        super().__init__()
        self.a: nn.Parameter = a if isinstance(a, nn.Parameter) else nn.Parameter(a)  # a parameter is shared
        self.b: nn.Parameter = nn.Parameter(b)
        self.length = None if length is None else nn.Parameter(length)
        self.scale, self.dropout = scale, dropout

    @property
    def alone(self) -> bool:
        """DoRA's lengths are of the base's own rows."""
        return self.length is not None

    def after(self, y: Float[Tensor, "T O"], x: Float[Tensor, "T I"], linear: Linear) -> Float[Tensor, "T O"]:
        """y + s · (x Aᵀ) Bᵀ, into y itself; with lengths, m / |W + s B A| times that, but for the bias."""
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        narrow = F.linear(x, self.a.to(x.dtype))
        if self.length is None:
            return y.addmm_(narrow, self.b.to(x.dtype).T, alpha=self.scale)
        with torch.no_grad():  # the norm is taken as a constant (section 4.3)
            norm = torch.linalg.vector_norm(linear.weight.dense().float() + self.delta(), dim=1)
        factor = (self.length / norm).to(x.dtype)
        bias = None if linear.bias is None else linear.bias.to(x.dtype)
        y = torch.addmm(y if bias is None else y - bias, narrow, self.b.to(x.dtype).T, alpha=self.scale) * factor
        return y if bias is None else y + bias

    def lower_after(self, plan: Plan, y: Register, x: Register, name: str) -> Register:
        if self.length is not None:
            raise Hole("DoRA's lengths")
        return plan.low_rank(y, x, self.a, self.b, self.scale, name)

    def delta(self) -> Float[Tensor, "O I"]:
        """s · B A, what the pair adds to the weight."""
        return self.scale * (self.b @ self.a)

    def folded(self, linear: Linear) -> Linear:
        """W + s · B A, rounded once to W's format. A tied weight is untied, since its other place must not change."""
        dense = linear.weight.dense()
        with torch.no_grad():
            exact = dense.double() + self.scale * (self.b.double() @ self.a.double())
            if self.length is not None:
                exact *= (self.length.double() / exact.norm(dim=1))[:, None]
        linear.weight = Dense(exact.to(dense.dtype))
        return linear

    def extra_repr(self) -> str:
        return f"rank {len(self.a)}, scale {self.scale:.4g}"


class LowRows(LowRank):
    """The trained pair of a table of vectors [V, D]. Shapes: a [rank, V], b [D, rank]."""

    def after(self, y: Float[Tensor, "T D"], x: Int[Tensor, " T"], linear: Any) -> Float[Tensor, "T D"]:
        narrow = F.embedding(x, self.a.T)
        return y.addmm_(narrow.to(y.dtype), self.b.to(y.dtype).T, alpha=self.scale)

    def folded(self, linear: Any) -> Any:
        """W + s · (B A)ᵀ. A head that is tied to the table keeps the old one."""
        dense = linear.weight.dense()
        with torch.no_grad():
            exact = dense.double() + self.scale * (self.b.double() @ self.a.double()).T
        linear.weight = Dense(exact.to(dense.dtype))
        return linear


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
        sizes, tables = _sizes(network), embeddings(network)
        found = match([*linears(network), *tables], self.targets)
        most = max(min(sizes[path]) for path in found)
        if self.rank > most:
            raise UsageError(f"rank {self.rank}: no target here has a rank above {most}, so give {most} at most")
        for path in found:
            out_features, in_features = sizes[path]
            if path in tables:
                _refuse_table(network, path, dora=self.dora)
                b = torch.randn(out_features, self.rank, generator=generator)
                put(network, path, name, LowRows(torch.zeros(self.rank, in_features), b, scale=self.scale))
                continue
            bound = 1 / math.sqrt(in_features)
            a = torch.empty(self.rank, in_features).uniform_(-bound, bound, generator=generator)
            b = torch.zeros(out_features, self.rank)
            put(network, path, name, LowRank(a, b, scale=self.scale, dropout=self.dropout))
            if self.dora:
                _with_length(network, path, name)
        return network

    def described(self, network: nn.Module, name: str) -> str:
        count = sum(p.numel() for p in self.trained(network, name).values())
        what = "DoRA" if self.dora else "LoRA"
        held = lowranks(network, name).values()
        places = "places" if any(isinstance(pair, LowRows) for pair in held) else "linears"
        return f"{what} rank {self.rank} on {len(held)} {places}: {count:,} trained numbers"

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        held, sizes = lowranks(network, name), _sizes(network)
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
            path: _sum([(w, held[each][path]) for each, w in weights.items() if path in held[each]], rank, kept)
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
        waiting, known, tables = set(tensors), _sizes(network), embeddings(network)
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
                    _refuse_table(network, target, dora=bool(config.get("use_dora")))
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


def _sum(pairs: Sequence[tuple[float, LowRank]], rank: int | None, kept: dict[Any, nn.Parameter]) -> LowRank:
    """The pair whose product is Σ w s B A of these: their factors end to end, or the best product of this rank.

    kept: sums of A's that were made already, since an A may serve several linears.
    """
    if any(p.length is not None for _, p in pairs):
        raise UsageError("combine: DoRA's lengths have no weighted sum; use the adapters of plain LoRA")
    if rank is not None:
        u, s, v = torch.linalg.svd(sum(w * p.delta().double() for w, p in pairs), full_matrices=False)
        a, b = v[:rank].float(), (u[:, :rank] * s[:rank]).float()
        return type(pairs[0][1])(a, b, scale=1.0)
    whose = tuple((w * p.scale, id(p.a)) for w, p in pairs)
    if whose not in kept:
        kept[whose] = nn.Parameter(torch.cat([w * p.scale * p.a.detach() for w, p in pairs]))
    return type(pairs[0][1])(kept[whose], torch.cat([p.b.detach() for _, p in pairs], dim=1), scale=1.0)


def lowranks(network: nn.Module, name: str) -> dict[str, LowRank]:
    """The pairs of one adapter by the canonical names of their linears."""
    return {path: part for path, part in parts(network, name).items() if isinstance(part, LowRank)}


def _sizes(network: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear; of a table of vectors (D, V), since it is a linear that is given ids."""
    tables = {path: (table.weight.shape[1], table.weight.shape[0]) for path, table in embeddings(network).items()}
    return shapes(network) | tables


def _refuse_table(network: nn.Module, path: str, *, dora: bool) -> None:
    """UsageError where a table of vectors takes no pair."""
    if dora:
        raise UsageError(f"dora: {path} is a table of vectors, which has no rows to stretch; leave one of the two out")
    if isinstance(network, EncoderDecoder):
        raise UsageError(
            f"{path}: an encoder and a decoder share this table, and PEFT's layout adapts one; name linears"
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


def _with_length(network: nn.Module, path: str, name: str) -> None:
    """Let the lengths of a fresh pair be those of the weight's rows."""
    dense = weight_of(linears(network)[path]).dense()
    lowranks(network, name)[path].length = nn.Parameter(torch.linalg.vector_norm(dense.float(), dim=1).detach())


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
