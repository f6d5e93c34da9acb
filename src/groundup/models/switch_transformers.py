"""Switch Transformers (Fedus et al., arXiv 2101.03961): a T5 in which every so manieth MLP is a mixture of experts, one a token.

encoder, decoder:  [ norm ─ attn ─(+)─ (norm ─ cross ─(+)─) norm ─ mlp or switch ─(+) ] × layers
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import nn

from groundup.core.errors import UsageError
from groundup.core.rules import Rules, rules
from groundup.models import t5
from groundup.nn.experts import Switch
from groundup.nn.stack import EncoderDecoder


class Config(t5.Config):
    """The public keys of a Switch Transformer `config.json`."""

    model_type: Literal["switch_transformers"] = "switch_transformers"  # type: ignore[assignment]
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    num_experts: int = 8
    expert_capacity: int = 64
    num_sparse_encoder_layers: int = 3
    num_sparse_decoder_layers: int = 3
    router_bias: bool = False
    router_jitter_noise: float = 0.01
    router_z_loss_coef: float = 0.001
    router_aux_loss_coef: float = 0.001

    IGNORED: ClassVar = {
        **t5.Config.IGNORED,
        "router_dtype": ("float32",),
        "router_ignore_padding_tokens": (False,),
        "add_router_probs": (False,),
        "dense_act_fn": ("relu",),
        "is_gated_act": (False,),
    }
    MAY_BE_ZERO = ("num_sparse_encoder_layers", "num_sparse_decoder_layers")
    ARCHITECTURES = ("SwitchTransformersForConditionalGeneration", "SwitchTransformersModel")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """Files repeat how often a layer is sparse, which follows from how many are."""
        public = dict(public)
        fields = cls.model_fields
        layers = public.get("num_layers", fields["num_layers"].default)
        for half, count in (("encoder", layers), ("decoder", public.get("num_decoder_layers") or layers)):
            sparse = public.get(f"num_sparse_{half}_layers", 3)
            step = count // sparse if sparse else count
            if public.pop(f"{half}_sparse_step", step) != step:
                raise UsageError(
                    f"config.json: {half}_sparse_step contradicts num_sparse_{half}_layers = {sparse}; remove it"
                )
        return super().prepare(public)

    def sparse(self, half: str, layer: int) -> bool:
        """Whether a layer's MLP is a mixture: the second of every `step`, or each one."""
        encoder = half == "encoder"
        count = self.num_layers if encoder else self.decoder_layers
        many = self.num_sparse_encoder_layers if encoder else self.num_sparse_decoder_layers
        step = count // many if many else count  # the public code's way to none, which makes the second layer sparse
        return layer % step == 1 or step == 1


def build(c: Config) -> EncoderDecoder:
    """The network of this config, with no numbers in it yet."""

    def mlp(half: str, layer: int) -> nn.Module:
        if not c.sparse(half, layer):
            return t5.dense_mlp(c)
        return Switch(
            c.d_model, lambda: t5.dense_mlp(c), count=c.num_experts, capacity=c.expert_capacity, bias=c.router_bias,
            jitter=c.router_jitter_noise, balance=c.router_aux_loss_coef, z=c.router_z_loss_coef,
        )  # fmt: skip

    return t5.build(c, mlp)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`: T5's, with `mlp` in place of `DenseReluDense`, and the mixtures'."""
    own = []
    for half, number in (("encoder", 1), ("decoder", 2)):
        ours, theirs = f"{half}.blocks.{{i}}.mlp", f"{half}.block.{{i}}.layer.{number}.mlp"
        own += [
            f"{theirs}.wi.weight -> {ours}.up.weight",
            f"{theirs}.wo.weight -> {ours}.down.weight",
            f"{theirs}.router.classifier.weight -> {ours}.router.weight",
            f"{theirs}.router.classifier.bias -> {ours}.router.bias",
            f"{theirs}.experts.expert_{{j}}.wi.weight -> {ours}.experts.{{j}}.up.weight",
            f"{theirs}.experts.expert_{{j}}.wo.weight -> {ours}.experts.{{j}}.down.weight",
        ]
    return rules(*own, *(rule for rule in t5.hugging_face(c).table if "DenseReluDense" not in rule.source))
