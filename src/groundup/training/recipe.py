"""Recipes: what to pretrain, and on what, read strictly from a YAML file or a dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from groundup.core.errors import UsageError
from groundup.core.yamls import read_yaml
from groundup.inputs.train import Kind
from groundup.training.packing import Documents
from groundup.training.settings import Settings

Kinds = Literal["causal", "masked", "seq2seq"]
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class Words(BaseModel):
    """The tokenizer to train."""

    model_config = STRICT
    kind: Kind | None = None
    """bpe, wordpiece, word or character; left out, wordpiece for masked words and bpe for all else."""
    vocabulary: int = 8000
    """The most tokens."""
    lowercase: bool | None = None
    """Whether capitals become small; left out, for wordpiece alone."""


class Data(BaseModel):
    """What is learned from."""

    model_config = STRICT
    source: str
    """A file, a folder or a data starter's name."""
    validation: str | None = None
    """Rows to validate on; left out, a twentieth is split off."""
    length: int | None = None
    """Tokens a row; left out, what the model can read, 512 at most."""
    documents: Documents = "apart"
    """apart: no text sees another; joined: they follow each other in one stream."""


class Recipe(BaseModel):
    """What to pretrain, and on what; beside these keys a recipe holds the settings of the run (`Settings`)."""

    model_config = STRICT
    family: str
    """The family's name, such as gpt2, bert, t5 or transformer."""
    model: dict[str, Any] = {}
    """The family's own keys, as in its config.json; the size of the vocabulary comes from the tokenizer."""
    tokenizer: Words | str = Words()
    """What to train, or the name of a model whose tokenizer is taken."""
    data: Data | str
    """Where the texts are."""
    objective: Kinds | None = None
    """What is learned; it follows from the family."""
    without: list[str] = []
    """Parts whose numbers are 0 and stay 0, by the end of their names, such as embed.positions."""

    @staticmethod
    def read(source: str | Path | Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
        """The recipe in a YAML file or a dict, and its settings. UsageError, with the key, for all that is not known."""
        where = "the recipe" if isinstance(source, Mapping) else str(source)
        given = dict(source) if isinstance(source, Mapping) else read_yaml(source)
        if not isinstance(given, dict):
            raise UsageError(f"{where} holds no lines like `family: gpt2`, but {type(given).__name__}")
        known = [f.name for f in fields(Settings)]
        unknown = [str(key) for key in given if key not in known and key not in Recipe.model_fields]
        if unknown:
            raise UsageError(
                f"{where} has no key {', '.join(unknown)}; there are {', '.join([*Recipe.model_fields, *known])}"
            )
        settings = {key: value for key, value in given.items() if key in known}
        try:
            recipe = Recipe(**{key: value for key, value in given.items() if key not in known})
        except ValidationError as error:
            raise UsageError(f"{where}: {_fault(error)}") from None
        hints = get_type_hints(Settings)
        for key, value in settings.items():
            try:
                TypeAdapter(hints[key]).validate_python(value, strict=True)
            except ValidationError as error:
                raise UsageError(f"{where}: {_fault(error, key)}") from None
        return recipe, settings

    @property
    def corpus(self) -> Data:
        return Data(source=self.data) if isinstance(self.data, str) else self.data


def _fault(error: ValidationError, *before: str) -> str:
    first = error.errors()[0]
    # a union's branches are named too: `tokenizer.Words.kind`, or the type that the value is not
    parts = [str(part) for part in first["loc"] if str(part) not in ("Words", "Data", "str", "int", "float")]
    place = ".".join([*before, *parts])
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] == "extra_forbidden":
        return f"{place.rpartition('.')[0]} has no key {parts[-1]}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{place} = {first['input']!r}: {message}" if place else message
