"""All ways of shrinking a weight by name. A new one is a file beside this one, and its class in this list."""

from __future__ import annotations

from groundup.core.spoken import made, said
from groundup.quantization.blocks import Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0
from groundup.quantization.fourbit import FP4, NF4
from groundup.quantization.halves import BF16, FP16
from groundup.quantization.integers import Int8
from groundup.quantization.llm_int8 import LLMInt8
from groundup.quantization.static import StaticInt8
from groundup.quantization.stored import Kind

KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (BF16, FP16, Int8, LLMInt8, StaticInt8, NF4, FP4, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K)
}
ALIASES = {"int4": "q4_1"}


def parse(text: str) -> Kind:
    """A kind from its line: `int8`, `nf4:block=128,double=false`; int4 is q4_1. UsageError for what is none."""
    name, colon, rest = text.strip().partition(":")
    return made(ALIASES.get(name, name) + colon + rest, KINDS, "kind of storage")


def line(kind: Kind) -> str:
    """The line that `parse` reads."""
    return said(kind.name, kind)
