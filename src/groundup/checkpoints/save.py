"""A network back into the Hugging Face layout, so that the reference library loads it and gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from groundup.checkpoints.safetensors import write_safetensors
from groundup.core.config import FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.files import write_json
from groundup.inputs.tokenizer import Tokenizer
from groundup.nn.surgery import tensors

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
    named = tensors(network)
    tied = {r.target for r in family.hugging_face(config).table if r.tied_to is not None}
    if hasattr(config, "tie_word_embeddings") and tied and config.labels is None:
        config = config.model_copy(update={"tie_word_embeddings": not any(t in named for t in tied)})  # as it is by now
    plan = family.hugging_face(config).save(named)
    if plan.unused:
        raise UsageError(f"a {config.family()} file has no place for {', '.join(plan.unused[:4])}")
    out = {}
    for entry in plan.entries:
        for source, tensor in zip(
            entry.sources, entry.inverse([named[t].detach() for t in entry.targets]), strict=True
        ):
            out[source] = tensor.contiguous()
    public = config.to_public()
    dtypes = {str(t.dtype).removeprefix("torch.") for t in out.values()}
    public["dtype"] = dtypes.pop() if len(dtypes) == 1 else "float32"
    write_json(folder / "config.json", public)
    write_safetensors(folder, out, {"format": "pt"}, max_shard_bytes=SHARD)
    if tokenizer is not None:
        tokenizer.save(folder)
    if generation:
        write_json(folder / "generation_config.json", generation)
    if notes:
        write_json(folder / "ledger.json", notes)
