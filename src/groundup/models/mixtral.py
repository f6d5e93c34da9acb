"""Mixtral (Jiang et al., arXiv 2401.04088): a Mistral whose MLPs are mixtures of experts, two of eight for each token.

ids ── embed ──[ norm ─ attn ─(+)─ norm ─ experts ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from groundup.core.config import ANY
from groundup.core.rules import Rules, rules
from groundup.models.llama_like import LABELS, LlamaLike, decoder
from groundup.models.llama_like import hugging_face as names
from groundup.nn.experts import Experts
from groundup.nn.mlp import GatedMLP
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "hugging_face"]


class Config(LlamaLike):
    """The public keys of a Mixtral `config.json`."""

    model_type: Literal["mixtral"] = "mixtral"
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    router_aux_loss_coef: float = 0.001
    router_jitter_noise: float = 0.0

    IGNORED: ClassVar = {**LlamaLike.IGNORED, "output_router_logits": ANY}
    ARCHITECTURES = ("MixtralForCausalLM", "MixtralModel")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """The public code turns by a base of a million where a file says nothing."""
        says = "rope_theta" in public or "rope_parameters" in public
        return super().prepare(public if says else {**public, "rope_theta": 1e6})


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""

    def mlp(layer: int) -> Experts:
        return Experts(
            c.hidden_size,
            lambda: GatedMLP(c.hidden_size, c.intermediate_size, act=c.hidden_act),
            count=c.num_local_experts,
            top=c.num_experts_per_tok,
            jitter=c.router_jitter_noise,
            balance=c.router_aux_loss_coef,
        )

    return decoder(c, attention=lambda layer: {"window": c.sliding_window}, mlp=mlp)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`: an expert's w1, w3 and w2 are its gate, up and down."""
    expert = "layers.{i}.block_sparse_moe.experts.{j}"
    own = (
        "layers.{i}.block_sparse_moe.gate.weight -> blocks.{i}.mlp.router.weight",
        f"{expert}.w1.weight -> blocks.{{i}}.mlp.experts.{{j}}.gate.weight",
        f"{expert}.w3.weight -> blocks.{{i}}.mlp.experts.{{j}}.up.weight",
        f"{expert}.w2.weight -> blocks.{{i}}.mlp.experts.{{j}}.down.weight",
    )
    table = names(c)
    return rules(*own, *(rule for rule in table.table if ".mlp." not in rule.source), prefix=table.prefix)
