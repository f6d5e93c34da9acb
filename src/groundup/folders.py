"""A model as a folder or a file, or the adapter in use as a folder: what is written, and what it says of where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.checkpoints import adapters, gguf_save, save
from groundup.checkpoints.adapters import Probe
from groundup.checkpoints.starters import STARTERS
from groundup.core.errors import UsageError
from groundup.core.labels import TASKS
from groundup.inference.classify import scores
from groundup.model import Model
from groundup.nn.heads import head_of
from groundup.nn.stack import Decoder, Encoder, EncoderDecoder
from groundup.peft.front import lay_alone
from groundup.peft.method import plain


def base_facts(model: Model) -> dict[str, Any]:
    """What an adapter says of its base: which one, and how its weights were stored after it was loaded."""
    origin = model.origin
    steps = [{"to": cost["to"], "targets": cost["targets"]} for cost in model.costs]
    return ({"storage": steps} if steps else {}) | {
        "name": origin.name,
        "path": origin.name if origin.name in STARTERS else str(origin.path.resolve()),
        "fingerprint": origin.fingerprint,
        "format": origin.format,
        "family": origin.family,
        "tokenizer": None if model.tokenizer is None else model.tokenizer.fingerprint(),
    }


def write_model(model: Model, folder: Path) -> None:
    """The base's weights as they stand, adapters left out, in the Hugging Face layout into an empty folder."""
    generation = dict(model.generation)
    if not generation and model.tokenizer is not None:
        generation = {"eos_token_id": sorted(model.stop_ids), "do_sample": False}
    facts: dict[str, Any] = {"base": base_facts(model), "notes": list(model.notes)}
    if model.costs:
        facts["costs"] = [dict(cost) for cost in model.costs]
    network = plain(model.network)
    if model.config.labels is not None:
        network.head = None  # it may have learned words beside the labels; the layout holds no such head
    save.write(folder, network, model.family, model.config, model.tokenizer, generation, facts)


def write_gguf(model: Model, path: Path, dtype: str | None) -> None:
    """The base's weights as they stand as a new `.gguf` file. UsageError for an adapter in use, and as of `gguf_save.write`."""
    if model.adapter is not None and not model.method.whole:
        raise UsageError(f"a .gguf holds no adapter: groundup merge {model.adapter!r} into the weights first")
    gguf_save.write(
        path,
        plain(model.network),
        model.family,
        model.config,
        model.words,
        model.origin,
        dtype=dtype,
        costs=model.costs,
    )


def write_adapter(model: Model, folder: Path) -> None:
    """The adapter in use in PEFT's layout, with its base's name and its probe, into an empty folder."""
    assert model.adapter is not None
    rules, labels = model.family.hugging_face(model.config), model.config.labels
    if labels is None and _headless(model.network):
        rules = replace(rules, prefix="")  # the reference is then the body itself (BertModel, not its place in a whole)
    adapters.write(
        folder,
        model.network,
        model.method,
        model.adapter,
        rules,
        base=base_facts(model),
        probe=probe(model, model.adapter),
        settings={"task_type": _task(model.network) if labels is None else TASKS[labels.level]},
        heads=head_of(model.network),
        labels=labels,
        transposed=any(o.name == "transpose" for r in rules.table for o in r.operations),
    )


def _task(network: nn.Module) -> str | None:
    """What PEFT calls the use of a network without a head for labels; it has no word for filling masks."""
    if isinstance(network, EncoderDecoder):
        return "SEQ_2_SEQ_LM"
    if _headless(network):
        return "FEATURE_EXTRACTION"
    return None if isinstance(network, Encoder) else "CAUSAL_LM"


def _headless(network: nn.Module) -> bool:
    """Whether it ends in hidden states: its file holds no head."""
    return isinstance(network, Decoder) and network.head is None


def probe(model: Model, adapter: str, words: int = 64) -> Probe:
    """What an adapter changes on eight fixed ids, at some words: kept beside it and checked when it is loaded. Of a network
    without a head it is the last hidden state that is kept, at some of its places."""
    vocabulary = int(model.config.to_public()["vocab_size"])
    ids = [(7919 * (i + 1)) % vocabulary for i in range(8)]
    network, device = model.network, model.device
    if model.config.labels is not None and isinstance(network, Decoder):
        # judged at every token, whatever the head judges: two numbers alone are no yardstick of noise
        told = [scores(network, [ids], [list(range(8))], adapter=a, device=device)[0] for a in (None, adapter)]
        first, last = (said.flatten()[:words].tolist() for said in told)
        return Probe(ids, list(range(len(first))), first, last)
    with torch.inference_mode():
        said: Callable[..., Tensor] = network
        if isinstance(network, Decoder) and _headless(network):
            said = network.run
        found = []
        for name in (None, adapter):
            x, step, _ = lay_alone(network, [ids], adapters=name, device=device)
            end = said(x, step)[-1]
            places = [(104729 * i) % len(end) for i in range(words)]
            found.append(end[places].float().tolist())
    return Probe(ids, places, found[0], found[1])
