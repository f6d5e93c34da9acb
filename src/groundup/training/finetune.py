"""Fine-tuning from a model and rows to a run's folder.

rows ── split ── encode ──┐
model ── copy in the run's number format ── what the method trains ──┴── Trainer ── best/ last/
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from groundup import __version__
from groundup.core import machine
from groundup.core.errors import UsageError
from groundup.core.files import atomic_folder, read_json, size, write_json
from groundup.core.labels import Problem
from groundup.data import rows
from groundup.data.labelled import has_labels, labelled
from groundup.data.rows import Dataset
from groundup.folders import base_facts, write_adapter, write_model
from groundup.inputs.tokenizer import Encoded
from groundup.model import Model
from groundup.nn.heads import head_of
from groundup.nn.surgery import in_format, with_copies, without_numbers
from groundup.training.choices import choose
from groundup.training.classify import classify, headed
from groundup.training.forecast import held, needed, of
from groundup.training.loop import Run, Trainer
from groundup.training.objective import Objective
from groundup.training.optimizers import refuse_unread, usual_rate
from groundup.training.settings import Aim, Settings
from groundup.training.which import objective_for

Say = Callable[[str], None]
Trained = dict[str, nn.Parameter]
WORTH_A_FORECAST = 1 << 26  # bytes of weights; less fits anywhere, and is trained sooner than forecast


def finetune(
    model: Model,
    data: str | Path | Sequence[dict[str, Any]],
    *,
    out: str | Path,
    validation: str | Path | None = None,
    max_tokens: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    objective: Objective | None = None,
    label: str | None = None,
    problem: Problem | None = None,
    auxiliary: float = 0.0,
    unlikelihood: float = 0.0,
    length_normalised: float = 0.0,
    consume: bool = False,
    on_progress: Callable[..., None] | None = None,
    say: Say = lambda text: None,
    **settings: Any,
) -> Run:
    """Train what the method in use trains on rows of data, and keep the best and the last of it in the folder `out`.

    data         a file, a folder or a list of rows; a twentieth (at most 32 rows) is split off for validation unless
                 `validation` names rows
    max_tokens   the longest row; a longer one is an error that names it
    resume       go on with the run in `out`, with the settings it was begun with
    dry_run      say what would be done, and do nothing
    objective    what is made smaller (default: the next token for a decoder, masked words for an encoder, the
                 target's tokens for an encoder-decoder; labels or choices, where the rows have them)
    label        the field that holds a row's label: a head for labels is put on the model where it has none, and trained
                 beside what the method trains. Left out: `label`, where rows of text have one; "none" learns the text
    problem      single, multi or regression (default: what the labels look like)
    auxiliary    the weight of GPT-1's loss on the text's own words beside the loss on its label
    unlikelihood, length_normalised   of rows with choices: the weights of T-Few's losses on the wrong ones beside the loss
                 on the right one
    consume      use the model up: its own numbers are trained, so that full tuning holds them once and not twice
    settings     as in `groundup.training.settings.Settings`: steps, epochs or minutes, learning_rate, batch ...
    on_progress(step, steps, loss=, lr=, tokens_per_second=, peak_memory=) is called after every update; say(text) tells
    what was found and chosen

    Ctrl-C finishes the update, saves, and raises KeyboardInterrupt. Raises UsageError when `out` exists.
    """
    began = time.monotonic()
    out = Path(out).expanduser()
    if model.adapter is None:
        raise UsageError("finetune: nothing would be trained; adapt the model first, e.g. adapt(model, LoRA())")
    _ = model.method  # one alone is trained
    given = settings_for(out, resume, settings)
    aim = Aim(label=label, problem=problem, auxiliary=auxiliary, unlikelihood=unlikelihood,
              length_normalised=length_normalised)  # fmt: skip
    model, found, read, objective = what_is_learned(model, data, objective, aim, given, say)
    train, valid = encoded_rows(model, found, read, validation, max_tokens, objective, given.seed, say)
    return conduct(
        model, train, valid, objective, given, out=out, resume=resume, dry_run=dry_run, began=began, consume=consume,
        on_progress=on_progress, say=say,
    )  # fmt: skip


def what_is_learned(
    model: Model,
    data: str | Path | Sequence[dict[str, Any]],
    objective: Objective | None,
    aim: Aim,
    given: Settings,
    say: Say,
) -> tuple[Model, Dataset, Callable[..., Dataset], Objective]:
    """The model (with a head, where rows with labels need one), its rows, how more are read, and what is made smaller.

    The arguments are those of `finetune`. UsageError for an aim that these rows do not have.
    """
    smoothing, chosen = given.label_smoothing, aim.unlikelihood or aim.length_normalised
    if objective is None and has_labels(data, aim.label):
        if chosen:
            raise UsageError("unlikelihood and length_normalised are of rows with choices, and these have labels")
        read = partial(labelled, field=aim.label)
        found = read(data)
        model = headed(model, found, aim.problem, auxiliary=aim.auxiliary, seed=given.seed, say=say)
        assert model.config.labels is not None
        objective = classify(model.config.labels, auxiliary=aim.auxiliary, smoothing=smoothing)
        return model, found, read, _learnable(model, objective)
    if aim.problem is not None or aim.auxiliary:
        raise UsageError("problem and auxiliary are of rows with labels: name the field that holds them (label)")
    found = rows.read(data)
    if objective is None and found.kind == "choices":
        if smoothing:
            raise UsageError("label_smoothing is not of rows with choices; leave it out")
        objective = choose(model, unlikelihood=aim.unlikelihood, length_normalised=aim.length_normalised)
    elif chosen:
        raise UsageError(f"unlikelihood and length_normalised are of rows with choices; {found.name} has none")
    return model, found, rows.read, _learnable(model, objective or objective_for(model, smoothing=smoothing))


def _learnable(model: Model, objective: Objective) -> Objective:
    """The objective itself. UsageError where the method in use learns by another one alone."""
    if model.adapter is not None and model.method.objective not in (None, objective.name):
        raise UsageError(
            f"a {model.method.kind} learns text that a decoder writes, not {objective.name} rows; take a prompt"
        )
    return objective


def conduct(
    model: Model,
    train: Sequence[Any],
    valid: Sequence[Any],
    objective: Objective,
    given: Settings,
    *,
    out: Path,
    resume: bool,
    dry_run: bool,
    began: float,
    identity: Mapping[str, Any] | None = None,
    beside: Callable[[Path], None] = lambda folder: None,
    consume: bool = False,
    on_progress: Callable[..., None] | None = None,
    say: Say = lambda text: None,
) -> Run:
    """Train what the method in use trains on encoded rows; the settings come from `settings_for`.

    began     when the work began (time.monotonic), for a budget in minutes
    identity  what else a resumed run must have been begun with
    beside    puts further files into the folder of a run that begins
    consume   train the model's own numbers, not copies of them
    """
    assert model.adapter is not None
    method, name = model.method, model.adapter
    if any(cost.get("calibrated") for cost in model.costs):
        raise UsageError(
            "a base that was rounded by texts cannot be made again from its name: save it, and tune the folder"
        )
    identity = {
        "base": base_facts(model),
        "method": {"kind": method.kind, **asdict(method)},
        "objective": objective.name,
        "adapter": name,
        "data": _digest(train, valid),
        **(identity or {}),
    }
    if resume:
        kept = read_json(out / "run.json")
        for key, value in identity.items():
            if kept[key] != value:
                raise UsageError(f"--resume: {out} was begun with another {key}; give the same model, method and data")
        chosen = given
        say(f"going on with {out} at its own settings")
    else:
        precision = given.precision
        if precision == "auto":
            precision, why = machine.choose("train")  # type: ignore[assignment]
            say(why)
        rate = given.learning_rate or usual_rate(given.optimizer, method.learning_rate)
        chosen = replace(given, precision=precision, learning_rate=rate)

    learned = method.trained(model.network, name) | head_of(model.network)
    exact, trained = with_copies(model.network, learned, consume=consume and not dry_run)
    network = in_format(exact, machine.FORMATS[chosen.precision])  # shares what is trained, which stays float32

    def keep(path: Path) -> None:
        """What is trained as it stands, on the base as it was loaded."""
        with atomic_folder(path, replace=True) as folder:
            (write_model if method.whole else write_adapter)(replace(model, network=exact.eval()), folder)

    def trainer(settings: Settings, network: nn.Module = network, trained: Trained = trained, **more: Any) -> Trainer:
        return Trainer(
            network, trained, train, valid, settings, objective=objective,
            penalty=lambda: method.penalty(network, name),
            out=out, adapter=name, keep=keep, tell=on_progress, say=say, device=model.device, **more,
        )  # fmt: skip

    if not resume:
        chosen = _timed(
            chosen, len(train), lambda: trainer(replace(chosen, steps=1, minutes=None)).seconds_a_step(), began, say
        )
    say(f"settings: {chosen.flags()}")
    say(method.described(network, name))
    expects = None
    if (weights := held(of(exact), of(network))) >= WORTH_A_FORECAST:
        expects = _forecast(trainer(chosen, *without_numbers(network, trained, model.device)), weights, say)
    if dry_run:
        nan = math.nan
        return Run(out, out / "best", out / "last", 0, 0, nan, nan, nan, 0.0, 0, 0, 0, machine.peak_memory(), expects)
    if not resume:
        with atomic_folder(out) as folder:
            count = sum(p.numel() for p in trained.values())
            facts = {**identity, "settings": asdict(chosen), "trained_numbers": count, "version": __version__}
            write_json(folder / "run.json", facts)
            beside(folder)
    return trainer(chosen, expects=expects).go()


def _forecast(trainer: Trainer, weights: int, say: Say) -> int:
    """The bytes that this process will hold at most, and a warning where the machine has fewer left."""
    more, left = needed(trainer, weights).more, machine.free_memory()
    peak = max(machine.peak_memory(), machine.resident_memory() + more)
    say(f"memory: {size(peak)} at most")
    if more > left:
        say(
            f"this machine has {size(left)} left, and the run will ask for {size(more)} more: it may be stopped half way; "
            "groundup estimate with the same flags says which smaller setting fits"
        )
    return peak


def encoded_rows(
    model: Model,
    found: Dataset,
    read: Callable[..., Dataset],
    validation: str | Path | None,
    max_tokens: int | None,
    objective: Objective,
    seed: int,
    say: Say,
) -> tuple[list[Any], list[Any]]:
    """The encoded rows to train on and those to validate on."""
    tokens = max_tokens or model.room or 1 << 30
    say(str(found))
    if validation is not None:
        parts = (found, read(validation, part="validation"))
        seen = set(map(rows.fingerprint, found.rows))
        twice = sum(rows.fingerprint(row) in seen for row in parts[1].rows)
        if twice == len(parts[1]):
            raise UsageError(
                f"every row of {validation} is trained on too, so validation would say nothing: give other rows, or "
                "leave --validation out and a part is split off"
            )
        if twice:
            say(
                f"{twice} of {len(parts[1])} validation rows are trained on too; groundup data decontaminate names them"
            )
    else:
        parts = rows.split(found, count=min(32, max(1, len(found) // 20)), seed=seed)
    train, valid = (objective.encode(part, model.words, tokens) for part in parts)
    say(
        f"training on {len(train)} rows ({sum(train.lengths):,} tokens, {sum(map(objective.count, train.rows)):,} "
        f"trained), {len(valid)} to validate"
    )
    return train.rows, valid.rows


def settings_for(out: Path, resume: bool, settings: dict[str, Any]) -> Settings:
    """The settings that were given; for a run that goes on, those that it was begun with. UsageError where `out` is
    there and should not be, or should be and is not."""
    given = Settings.named(settings)
    refuse_unread(given)
    if resume:
        if not (out / "run.json").exists():
            raise UsageError(f"--resume: {out} is no run; leave --resume out to begin one")
        if (out / "done.json").exists():
            raise UsageError(f"--resume: the run in {out} is finished; the best of it is {out / 'best'}")
        return Settings(**read_json(out / "run.json")["settings"])
    if out.exists():
        raise UsageError(f"{out} exists and is not overwritten; name another --out, or add --resume to go on with it")
    return given


def _timed(settings: Settings, count: int, measure: Callable[[], float], began: float, say: Say) -> Settings:
    """The same settings with their length, and the time between validations, as numbers of updates."""
    if settings.steps is not None:
        steps = settings.steps
    elif settings.minutes is not None:
        each = measure()
        left = settings.minutes * 60 - (time.monotonic() - began)
        steps = max(1, int(left / (each * 1.04)))  # a twenty-fifth goes into validating and saving
        say(
            f"{settings.minutes:g} minutes: {each:.2f} s an update here, so {steps} updates; "
            f"--steps {steps} repeats this run"
        )
    else:
        epochs = 1.0 if settings.epochs is None else settings.epochs
        steps = max(1, round(epochs * count / (settings.batch * settings.accumulate)))
    every = settings.validate_every or max(1, math.ceil(steps / 4))
    return replace(settings, steps=steps, epochs=None, minutes=None, validate_every=every)


def _digest(*parts: Sequence[Any]) -> str:
    """A hash of the encoded rows, so that a resumed run is refused other data."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part:
            digest.update(repr((row.ids, row.trained) if type(row) is Encoded else row).encode())
        digest.update(b"|")
    return digest.hexdigest()
