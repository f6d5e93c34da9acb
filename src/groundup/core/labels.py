"""What a head for labels says: their names, whether one or several hold or they are numbers, and of a text or a token.

single      one of the labels holds            softmax, cross-entropy
multi       each label holds or not            sigmoid, binary cross-entropy
regression  each label is a number             the number itself, squared error
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from groundup.core.errors import UsageError

Problem = Literal["single", "multi", "regression"]
Level = Literal["sequence", "token"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)
_PUBLIC: dict[Problem, str] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
_LEVELS: dict[Level, str] = {"sequence": "ForSequenceClassification", "token": "ForTokenClassification"}
TASKS: dict[Level, str] = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS"}  # PEFT's names

# What transformers calls such heads in the files of most families; `labels` is ours.
CLASSIFIER = ("/classifier.weight -> labels.weight", "/classifier.bias -> labels.bias")
SCORES: dict[Level, tuple[str, ...]] = {"sequence": ("/score.weight -> labels.weight",), "token": CLASSIFIER}


@dataclass(frozen=True)
class Labels:
    """The labels of a head, in the order of its scores."""

    names: tuple[str, ...]
    problem: Problem = "single"
    level: Level = "sequence"

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise UsageError(f"labels need at least one name, each once, not {', '.join(self.names) or 'none'}")
        if self.problem not in PROBLEMS or self.level not in _LEVELS:
            raise UsageError(
                f"labels are {', '.join(PROBLEMS)}, of a sequence or token, not {self.problem} {self.level}"
            )
        if self.level == "token" and self.problem != "single":
            raise UsageError(f"a token has one label; {self.problem} labels are of a whole text")

    def serve(self, wanted: Labels) -> bool:
        """Whether a head with these labels can be asked for those."""
        same = (self.problem, self.level) == (wanted.problem, wanted.level)
        return same and (wanted.problem == "regression" or set(wanted.names) <= set(self.names))

    def public(self) -> dict[str, Any]:
        """The keys of a `config.json` that say it."""
        return {
            "id2label": {str(i): name for i, name in enumerate(self.names)},
            "label2id": {name: i for i, name in enumerate(self.names)},
            "problem_type": _PUBLIC[self.problem],
        }

    @staticmethod
    def from_public(config: Mapping[str, Any]) -> Labels | None:
        """What a `config.json` says; None where its network has no head for labels.

        Without names there are LABEL_0, LABEL_1 ...; without a problem_type one label is a number, several exclude each
        other. Raises UsageError for names that cannot be read.
        """
        said = str((config.get("architectures") or [""])[0])
        level = next((level for level, end in _LEVELS.items() if said.endswith(end)), None)
        if level is None:
            return None
        named = config.get("id2label")
        count = len(named) if named else int(config.get("num_labels") or 2)
        try:
            by_id = {int(id): str(name) for id, name in (named or {}).items()}
            names = tuple(by_id[i] for i in range(count)) if named else tuple(f"LABEL_{i}" for i in range(count))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UsageError(f"config.json: id2label should name the labels 0 to {count - 1}, not {named!r}") from None
        kinds = {public: problem for problem, public in _PUBLIC.items()}
        wanted = config.get("problem_type")
        if wanted not in (None, *kinds):
            raise UsageError(f"config.json: problem_type = {wanted!r}; there are {', '.join(kinds)}")
        usual: Problem = "regression" if count == 1 and level == "sequence" else "single"
        return Labels(names, usual if wanted is None else kinds[wanted], level)


def architecture(name: str, labels: Labels) -> str:
    """What transformers calls the network with such a head: BertForMaskedLM -> BertForSequenceClassification."""
    stem = re.sub(r"(LMHeadModel|Model|For[A-Z]\w*)$", "", name)
    return stem + _LEVELS[labels.level]


def lines(labels: Labels | None, table: Mapping[Level, Sequence[str]]) -> Sequence[str]:
    """The rules of a family's `LABELS` that hold for this head; none without one."""
    return () if labels is None else table[labels.level]
