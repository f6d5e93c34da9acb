"""The flags that several verbs share, and the file that can give them.

Each group is a dataclass; cyclopts makes a flag of every field and its help of the string below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from cyclopts import Parameter
from cyclopts.config import Dict

from groundup.cli.output import note
from groundup.core.errors import UsageError

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection

    from groundup.model import Model

typed: list[str] = []  # the words of this command line, set by main

Precision = Literal["auto", "float32", "bfloat16", "int8"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags of every verb."""

    json: bool = False
    """Print one JSON object on standard output; everything else goes to standard error."""

    config: Path | None = None
    """A YAML file of flags (`max-tokens: 64`); flags on the command line win, unknown keys are errors."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Flags that say which model, beside its name."""

    adapter: tuple[Path, ...] = ()
    """A folder with an adapter: a run's folder, or one that PEFT wrote. Given again: used over the one before."""

    revision: str | None = None
    """The branch, tag or commit, for a model from the hub."""

    @property
    def adapters(self) -> str | None:
        """The adapters in a word, for what is written of a job."""
        return "+".join(map(str, self.adapter)) or None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Place:
    """Flags that say where to compute."""

    device: str = "cpu"
    """cpu, cuda, cuda:1 ..."""

    threads: int | None = None
    """How many processor threads. Left out: as many as PyTorch finds right."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Machine(Place):
    """Flags that say where and in which number format to compute."""

    precision: Precision = "auto"
    """auto measures which number format is fast here, says so and uses it."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Flags that say how to answer. What is left out comes from the model's own generation_config.json."""

    max_tokens: int = 256
    """The longest answer, in tokens."""

    temperature: float | None = None
    """0 takes the likeliest token each time."""

    top_k: int | None = None
    """Choose among so many tokens."""

    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""

    min_p: float | None = None
    """Choose among tokens at least this share as likely as the likeliest."""

    repetition_penalty: float | None = None
    """Above 1: tokens that stand in the text already become less likely."""

    stop: tuple[str, ...] = ()
    """A text at which the answer ends; may be given several times."""

    seed: int | None = None
    """The same seed gives the same answer."""

    json_schema: Path | None = None
    """A file with a JSON schema: the answer can be nothing but JSON of that form."""

    lookup: int = 0
    """Guess so many tokens ahead from what the text said before, and check them at once: the same answer, faster where a
    text repeats its prompt."""

    draft: str | None = None
    """A smaller model with the same tokens that guesses ahead: the same answer, faster where it guesses well."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `Model.generate` and its sisters."""
        found: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "stop": self.stop,
            "seed": self.seed,
        }
        return found | {"schema": read_schema(self.json_schema)} if self.json_schema else found

    def ahead(self) -> dict[str, Any]:
        """The keyword arguments that change no answer: what guesses ahead."""
        from groundup import api

        return {"lookup": self.lookup, "draft": None if self.draft is None else api.load(self.draft)}


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON schema in this file. UsageError where it is none."""
    from groundup.core.files import read_json

    found = read_json(path)
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON schema but {type(found).__name__}: write an object, {{...}}")
    return found


def from_config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the flags that were not typed from the file that --config names (called by cyclopts for every command)."""
    for argument in arguments:
        if "--config" in argument.names and argument.tokens:
            path = argument.tokens[0].value
            flags = read_config(Path(path))
            Dict(flags, source=path, use_commands_as_keys=False)(app, commands, arguments)


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file of flags: names with a value, or with a list of values. UsageError for anything else."""
    try:
        if path.stat().st_size > 1 << 20:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes: that is no file of flags")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} must hold lines like `max-tokens: 64`, not {type(found).__name__}")
    for name, value in found.items():
        flat = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(isinstance(each, str | int | float) for each in flat):
            raise UsageError(f"{path}: {name} must have a text, a number, true or false, or a list of these")
        if name.replace("_", "-") == "config":
            raise UsageError(f"{path}: a file of flags cannot name another one")
    return found


class _Strict(yaml.SafeLoader):
    """Safe YAML in which no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UsageError(f"the key {key!r} stands twice in the file of --config")
        return super().construct_mapping(node, deep=deep)


def open_model(name: str, which: Which, place: Place, *, precision: str | None = None) -> Model:
    """The model of this name, loaded as the flags say (in `precision` instead, if given); what it notes is said."""
    use_threads(place.threads)
    from groundup import api

    dtype = precision or (place.precision if isinstance(place, Machine) else "float32")
    model = api.load(name, adapter=which.adapter, revision=which.revision, device=place.device, dtype=dtype)
    for line in model.notes:
        note(line)
    return model


def use_threads(threads: int | None) -> None:
    """Let PyTorch use so many threads."""
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"--threads must be 1 or more, not {threads}")
    import torch

    torch.set_num_threads(threads)


def refuse_existing(path: Path) -> None:
    """UsageError where something stands that would be overwritten."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists and is not overwritten: remove it or name another --out")


def one_of(**given: object) -> None:
    """UsageError where more than one of these flags was given."""
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other: give one of them")


def words(values: Sequence[str]) -> list[str]:
    """Values that were given one by one or with commas between them."""
    return [word.strip() for value in values for word in value.split(",") if word.strip()]
