"""A model as it will stand, without its numbers: what a config or a header says, and nothing of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.checkpoints.load import (
    Loaded,
    Origin,
    empty_network,
    folder_config,
    generation_of,
    gguf_config,
    opened,
    resolve,
    tie,
    tokenizer_in,
)
from groundup.inputs.tokenizer import Tokenizer


def outline(name: str | Path, *, revision: str | None = None) -> Loaded:
    """A model without its numbers, its network on the meta device: from a config.json or the header of a `.gguf`.

    Errors as of `load`.
    """
    path = resolve(name, revision, weights=False)
    path = path.parent if path.name == "config.json" else path
    if path.is_dir():
        family, config, public = folder_config(path)
        rules, metadata = family.hugging_face(config), dict[str, Any]()
        generation = generation_of(path)
        tokenizer = tokenizer_in(path, generation, public)
    else:
        source = opened(path)
        family, config = gguf_config(source, path)
        rules, metadata, generation = family.gguf(config), dict(source.metadata), {}
        tokenizer = Tokenizer.from_gguf(metadata)
    network = empty_network(family, config)
    tie(network, rules.load(()), config)
    origin = Origin(str(name), path, "", "outline", family.__name__.rpartition(".")[2], metadata)
    return Loaded(network.eval(), family, config, tokenizer, generation, origin)
