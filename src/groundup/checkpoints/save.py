"""A network back into the Hugging Face layout, so that the reference library loads it and gives the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from groundup.checkpoints import quantized
from groundup.checkpoints.safetensors import write_safetensors
from groundup.core.config import FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.files import write_json
from groundup.core.rules import Rules
from groundup.inputs.tokenizer import Tokenizer
from groundup.nn.surgery import tensors
from groundup.quantization.shrink import stored

SHARD = 5 * 10**9  # bytes a file, as the reference library cuts them


def write(
    folder: Path,
    network: nn.Module,
    family: ModuleType,
    config: FamilyConfig,
    tokenizer: Tokenizer | None = None,
    generation: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write config.json, model.safetensors, the tokenizer and generation_config.json into an empty folder.

    notes: what the ledger beside the files keeps (ledger.json).
    """
    small = stored(network)
    named = quantized.named(network) if small else tensors(network)
    tied = {r.target for r in family.hugging_face(config).table if r.tied_to is not None}
    if hasattr(config, "tie_word_embeddings") and tied and config.labels is None:
        config = config.model_copy(
            update={"tie_word_embeddings": not any(n == t or n.startswith(f"{t}.") for t in tied for n in named)}
        )  # as it is by now
    public = config.to_public()
    if small:
        out = {name: tensor.detach().contiguous() for name, tensor in named.items()}
        public[quantized.KEY] = quantized.described(network, (notes or {}).get("base", {}))
    else:
        out = _public(named, family.hugging_face(config), config)
    dtypes = {str(t.dtype).removeprefix("torch.") for t in out.values() if t.is_floating_point()}
    public["dtype"] = dtypes.pop() if len(dtypes) == 1 else "float32"
    write_json(folder / "config.json", public)
    write_safetensors(folder, out, {"format": "pt"}, max_shard_bytes=SHARD)
    if tokenizer is not None:
        tokenizer.save(folder)
    if generation:
        write_json(folder / "generation_config.json", generation)
    if notes:
        write_json(folder / "ledger.json", notes)


def _public(named: Mapping[str, Tensor], rules: Rules, config: FamilyConfig) -> dict[str, Tensor]:
    """The tensors by their public names and layouts."""
    plan = rules.save(named)
    if plan.unused:
        raise UsageError(f"a {config.family()} file has no place for {', '.join(plan.unused[:4])}")
    out: dict[str, Tensor] = {}
    for entry in plan.entries:
        made = entry.inverse([named[t].detach() for t in entry.targets])
        out |= {source: tensor.contiguous() for source, tensor in zip(entry.sources, made, strict=True)}
    return out
