"""`groundup estimate`: what tuning a model will take, before anything is fetched or allocated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from groundup.cli.methods import ALSO, Flags, Kind, chosen
from groundup.cli.options import Common, Place
from groundup.cli.output import listing, note, result
from groundup.cli.progress import clock
from groundup.core.costs import Rates
from groundup.core.files import bytes_of, size
from groundup.training.settings import Aim, Settings

EXAMPLE = "groundup estimate smollm2-135m-instruct --method qlora --batch 16 --length 256"


def run(
    model: str,
    /,
    *,
    method: Kind = "lora",
    length: int = 256,
    data: Path | None = None,
    validation: Path | None = None,
    max_tokens: int | None = None,
    aim: Annotated[Aim, Parameter(name="*")] = Aim(),
    store: str | None = None,
    memory: str | None = None,
    memory_only: bool = False,
    flags: Flags = Flags(),
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),
    rates: Annotated[Rates, Parameter(name="*")] = Rates(),
    revision: str | None = None,
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Say what `groundup finetune` with the same flags will take: memory, time, energy, carbon dioxide and money.

    Nothing of the model's size is fetched or allocated: a config.json is enough. An update is gone through without numbers
    for the memory; about ten seconds of training one and two blocks of this width measure the time on this machine. Where
    it does not fit, flags are said with which it does.

    Parameters
    ----------
    model
        A starter, a hub id, a folder (or its config.json alone) or a .gguf file.
    method
        What would be trained; qlora is lora with --store nf4.
    length
        Tokens of a row, all of them trained. Not read where --data is given.
    data
        The rows that would be trained on.
    validation
        The rows that would be validated on. Left out: a part of --data, which is then not trained on.
    max_tokens
        As of groundup finetune.
    store
        What the base would be stored in: int8, nf4, int4, ... as of groundup quantize.
    memory
        What there is for it: 8GB. Left out: what is free here.
    memory_only
        Measure no time: an answer in a few seconds.
    revision
        The branch, tag or commit of a hub id.
    """
    tuning = chosen(method, flags)
    room = None if memory is None else bytes_of(memory)
    from groundup import api

    found = api.estimate(
        model,
        tuning,
        store=store or ALSO.get(method, (method, None))[1],
        data=data,
        validation=validation,
        length=length,
        max_tokens=max_tokens,
        aim=aim,
        rates=rates,
        memory=room,
        timed=not memory_only,
        revision=revision,
        device=place.device,
        say=note,
        **asdict(settings),
    )
    m = found.memory
    lines = {
        "weights": size(m.weights),
        "gradients": size(m.gradients),
        "optimizer": size(m.optimizer),
        "activations": f"{size(m.activations)} (the most that a forward and backward pass holds)",
        "program": size(found.program),
        "peak": f"{size(found.peak)} of {size(found.room)}" + ("" if found.fits else ": it does not fit"),
    }
    if not memory_only:
        speed = f"{found.tokens_per_second:,.0f} tokens a second"
        lines["an update"] = f"{found.update:.2f} s for {found.tokens:,.0f} tokens ({speed}, measured here)"
    if found.seconds is not None:
        updates = "" if found.updates is None else f" ({found.updates:,} updates)"
        lines["the run"] = f"{clock(found.seconds)}{updates}, without validations"
    if found.bill is not None:
        price = "" if found.bill.price is None else f", {found.bill.price:.2f} of money"
        lines["its cost"] = (
            f"{found.bill.energy:.3g} kWh at {rates.watts:g} W, {found.bill.carbon:.3g} g of CO2 at "
            f"{rates.grams_per_kwh:g} g a kWh{price}"
        )
    if found.cache is not None:
        many = found.cache * length * settings.batch
        lines["to answer"] = (
            f"{size(found.cache)} of cache a token: {size(many)} for {settings.batch} texts of {length}"
        )
    if not found.fits:
        lines["smaller"] = found.smaller or "no smaller batch and no --checkpointing makes it fit: take a smaller model"
    result(found.facts(), listing(lines), as_json=common.json)
