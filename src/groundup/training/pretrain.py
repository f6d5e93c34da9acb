"""Pretraining: from texts and a recipe to a model that began with random numbers.

    recipe ─┬─ data ──── tokenizer (trained, or another model's) ── rows of `length` tokens ──┐
            └─ family, model ── random weights (`start`) ─────────────────────────────────────┴── Trainer ── best/ last/

The loop, the log, the pictures and the way to go on after a kill are those of `finetune`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from groundup import models
from groundup.checkpoints.load import Origin, tokenizer_of
from groundup.core.config import FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.files import read_json, write_json
from groundup.data import rows
from groundup.data.encode import EncodedRows, encode_all
from groundup.data.rows import Dataset
from groundup.data.texts import said
from groundup.inputs.tokenizer import Tokenizer
from groundup.inputs.train import train_tokenizer
from groundup.model import Model
from groundup.nn.stack import Encoder, EncoderDecoder
from groundup.peft.full import Full
from groundup.training.finetune import Say, conduct, settings_for
from groundup.training.loop import Run
from groundup.training.objective import Objective
from groundup.training.packing import pack, unpacked
from groundup.training.recipe import Data, Kinds, Recipe, Words
from groundup.training.seq2seq import encode_pairs
from groundup.training.settings import Settings
from groundup.training.start import begin
from groundup.training.which import objective_for

LENGTH = 512  # tokens a row, where neither the recipe nor the model says how long one is
HELD_OUT = 1000  # texts (or rows of joined texts) that validation gets at most
NAME = "pretrained"


@dataclass(frozen=True)
class Scratch(Full):
    """Train every number of a model that has learned nothing."""

    kind: ClassVar[str] = "scratch"
    peft_type: ClassVar[str] = "GROUNDUP_SCRATCH"
    learning_rate: ClassVar[float] = 1e-3

    without: str = ""
    """Parts that stay as they are, by the ends of their names, with spaces between."""

    def trained(self, network: nn.Module, name: str) -> dict[str, nn.Parameter]:
        return {n: p for n, p in super().trained(network, name).items() if not _ends(n, self.without.split())}


def pretrain(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    resume: bool = False,
    dry_run: bool = False,
    device: str = "cpu",
    on_progress: Callable[..., None] | None = None,
    say: Say = lambda text: None,
    **settings: Any,
) -> Run:
    """Train a tokenizer and a model from random weights, and keep the best and the last of it in the folder `out`.

    recipe     a YAML file, or a dict of the same keys (`Recipe`, and any of `Settings`)
    resume     go on with the run in `out`, with the settings it was begun with
    settings   go before those of the recipe
    Further arguments as in `finetune`. `groundup.load(out)` loads what came of it.

    Ctrl-C finishes the update, saves, and raises KeyboardInterrupt. Raises UsageError when `out` exists.
    """
    began = time.monotonic()
    out = Path(out).expanduser()
    found, own = Recipe.read(recipe)
    if {"steps", "epochs", "minutes"} & set(settings):
        own = {key: value for key, value in own.items() if key not in ("steps", "epochs", "minutes")}
    given = settings_for(out, resume, {**own, **settings})
    public = found.model_dump(mode="json")
    if resume and read_json(out / "run.json").get("recipe") != public:
        raise UsageError(f"--resume: {out} was begun with another recipe; give the same one")
    kind = kind_of(found.family, found.model)
    if found.objective not in (None, kind):
        raise UsageError(f"objective: a {found.family} learns {kind}, not {found.objective}")
    corpus = found.corpus
    read = rows.read(corpus.source)
    say(str(read))
    tokenizer = _tokenizer(found, kind, read, out / "tokenizer" if resume else None)
    model = scratch(found.family, found.model, tokenizer, seed=given.seed, without=found.without, device=device)
    count = sum(p.numel() for p in model.network.parameters())
    say(f"a {found.family} of {count:,} random numbers, a vocabulary of {tokenizer.vocab_size:,} tokens")
    train, valid, objective = _encoded(model, kind, corpus, read, given)
    trained = sum(map(objective.count, train))
    say(f"training on {len(train):,} rows ({sum(len(r.ids) for r in train):,} tokens, {trained:,} trained), "
        f"{len(valid):,} to validate")  # fmt: skip
    facts = {
        "recipe": public,
        "base": {"name": model.origin.name, "path": model.origin.name, "fingerprint": model.origin.fingerprint,
                 "format": "random", "family": found.family, "tokenizer": tokenizer.fingerprint()},
    }  # fmt: skip

    def beside(folder: Path) -> None:
        tokenizer.save(folder / "tokenizer")
        write_json(folder / "recipe.json", {**public, **{k: v for k, v in asdict(given).items() if v is not None}})

    return conduct(
        model, train, valid, objective, given, out=out, resume=resume, dry_run=dry_run, began=began, identity=facts,
        beside=beside, consume=True, on_progress=on_progress, say=say,
    )  # fmt: skip


# --- the model --------------------------------------------------------------------------------------------------------


def family_of(name: str) -> ModuleType:
    """The module of a family. UsageError where there is none of that name."""
    if name not in models.FAMILIES:
        raise UsageError(f"family {name!r}: there are {', '.join(models.FAMILIES)}")
    return getattr(models, name)


def kind_of(family: str, sizes: Mapping[str, Any]) -> Kinds:
    """What a family's network can learn: an encoder masked words, an encoder-decoder answers, a decoder what follows."""
    module = family_of(family)
    with torch.device("meta"):
        network = module.build(_config(module, {**sizes, "vocab_size": 8}))
    if isinstance(network, EncoderDecoder):
        return "seq2seq"
    return "masked" if isinstance(network, Encoder) else "causal"


def scratch(
    family: str,
    sizes: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    seed: int = 0,
    without: Sequence[str] = (),
    device: str = "cpu",
) -> Model:
    """A model of this family from random weights (`start`), ready to train every one of them.

    sizes    the family's public keys
    without  parts whose numbers are 0 and stay 0, by the ends of their names
    Raises UsageError for a key that the family does not have or that would have no effect, and for a part that is none.
    """
    module = family_of(family)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    if kind_of(family, sizes) == "seq2seq":
        ids["decoder_start_token_id"] = tokenizer.pad_id
    named = {name: id for name, id in ids.items() if id is not None}
    config = config_of(module, sizes, tokenizer, named)
    network = module.build(config)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # nothing here would teach it
    begin(network, seed)
    names = Full().trained(network, NAME)
    for part in without:
        hit = [p for n, p in names.items() if _ends(n, [part])]
        if not hit:
            ends = sorted({n.rpartition(".")[0].rpartition("blocks.")[2].lstrip("0123456789.") for n in names})
            raise UsageError(f"without: no part of this model is called {part!r}; there are {', '.join(ends)}")
        for parameter in hit:
            parameter.data.zero_()
    text = json.dumps([config.to_public(), seed, list(without)], sort_keys=True)
    origin = Origin(f"random {family}", Path(), hashlib.sha256(text.encode()).hexdigest(), "random", family)
    generation: dict[str, Any] = {"do_sample": False, **named}
    method = Scratch(" ".join(without))
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return Model(network.eval(), module, config, tokenizer, origin, generation, adapter=NAME, methods={NAME: method})


def config_of(
    module: ModuleType, sizes: Mapping[str, Any], tokenizer: Tokenizer, ids: Mapping[str, int]
) -> FamilyConfig:
    """The config with the tokenizer's vocabulary, and special tokens. UsageError for a key that has no effect."""
    size = sizes.get("vocab_size", tokenizer.vocab_size)
    if size < tokenizer.vocab_size:
        raise UsageError(
            f"model: vocab_size is {size:,}, and the tokenizer has {tokenizer.vocab_size:,} tokens; leave it out"
        )
    public = {**sizes, "vocab_size": size}
    _config(module, public)
    return module.Config.from_public({**public, **ids})


def _config(module: ModuleType, public: Mapping[str, Any]) -> FamilyConfig:
    try:
        config: FamilyConfig = module.Config.from_public(public)
    except UsageError as error:
        raise UsageError(str(error).replace("config.json", "model", 1)) from None
    if config.extra:
        raise UsageError(f"model: {', '.join(config.extra)} would have no effect here; remove it")
    return config


def _ends(name: str, parts: Sequence[str]) -> bool:
    name = name.removesuffix(".weight")
    return any(name == part or name.endswith(f".{part}") for part in parts)


# --- words and rows ---------------------------------------------------------------------------------------------------


def _tokenizer(recipe: Recipe, kind: Kinds, read: Dataset, kept: Path | None) -> Tokenizer:
    if kept is not None:
        return Tokenizer.from_folder(kept)
    wanted = recipe.tokenizer
    if isinstance(wanted, Words):
        chosen = wanted.kind or ("wordpiece" if kind == "masked" else "bpe")
        texts = (said(row) for row in read.rows)
        return train_tokenizer(texts, chosen, vocabulary=wanted.vocabulary, specials=kind, lowercase=wanted.lowercase)
    return tokenizer_of(wanted)


def _encoded(
    model: Model, kind: Kinds, corpus: Data, read: Dataset, given: Settings
) -> tuple[list[Any], list[Any], Objective]:
    """The rows to train on, those to validate on, and what is made smaller."""
    words, objective = model.words, objective_for(model, smoothing=given.label_smoothing)
    length = corpus.length or min(LENGTH, model.context or LENGTH)
    if model.context is not None and length > model.context:
        raise UsageError(
            f"data: length is {length}, and this model reads {model.context} tokens; give it more, or less"
        )
    apart = None if corpus.validation is None else rows.read(corpus.validation, part="validation")

    def packed(part: Dataset) -> list[Any]:
        texts = [said(row) for row in part.rows]
        return pack(texts, words, length, documents=corpus.documents, masked=kind == "masked")

    if kind == "seq2seq" or (kind == "causal" and read.kind != "text"):  # rows that say what shall be learned

        def plain(part: Dataset) -> list[Any]:
            encode: Callable[..., EncodedRows] = encode_pairs if kind == "seq2seq" else encode_all
            return list(encode(part, words, length).rows)

        train, valid = (read, apart) if apart else _split(read, given.seed)
        return plain(train), plain(valid), objective
    objective = unpacked(objective)
    if apart is None and corpus.documents == "joined":  # a stream is divided where it is cut, not between its texts
        found = packed(read)
        if len(found) < 2:
            raise UsageError(f"the texts fill one row of {length} tokens, which leaves none to validate on: give more")
        order = np.random.RandomState(given.seed % 2**32).permutation(len(found)).tolist()
        held = set(order[: _held(len(found))])
        return [r for i, r in enumerate(found) if i not in held], [found[i] for i in sorted(held)], objective
    train, valid = (read, apart) if apart else _split(read, given.seed)
    return packed(train), packed(valid), objective


def _split(read: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    return rows.split(read, count=_held(len(read)), seed=seed)


def _held(count: int) -> int:
    return min(HELD_OUT, max(1, count // 20))
