"""What a file of weights offers, whatever its format: names, shapes, and tensors that are read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

WHOLE = 1 << 30
"""Sources of at most this many bytes (1 GiB) are hashed whole; of larger ones a quarter of that is read."""
BLOCK, HEAD = 1 << 20, 1 << 12

UNSAFE = (
    "opening such a file can run code, so it is never done. Take the model's .safetensors, or convert it in a sandbox "
    "with transformers: from_pretrained(...).save_pretrained(...)"
)


@runtime_checkable
class Source(Protocol):
    """An open, checked file of weights (or a folder of them). Opening it read the header and no weights."""

    @property
    def names(self) -> list[str]:
        """The names of the tensors, as the file has them."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says beside its tensors: strings in safetensors, typed values in GGUF."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape in PyTorch's order: [out, in] for a linear layer. Raises GroundupError for an unknown name."""

    def dtype(self, name: str) -> torch.dtype | str:
        """The number format in the file: a torch.dtype, or a string such as "Q4_1" for one that torch lacks."""

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU. Raises GroundupError for an unknown name or content that cannot be right."""

    def fingerprint(self) -> str:
        """The identity of the content, by `fingerprint`."""


@dataclass(frozen=True)
class Content:
    """A tensor as it lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def fingerprint(tensors: Mapping[str, Content]) -> str:
    """A name for these tensors: the same for one file and for shards, in whatever order and beside whatever notes.

    Up to 1 GiB it is the SHA-256 over each tensor's name, format, shape and bytes, by name. Above, "sampled:" and the
    SHA-256 where of each tensor only its share of 256 MiB is read: blocks of 1 MiB spread evenly over it, or its first
    4 KiB where the share is less than one. That recognises a model in a second; it stops nobody who forges one.
    """
    total = sum(len(content.data) for content in tensors.values())
    digest = hashlib.sha256()
    for name in sorted(tensors):
        content = tensors[name]
        digest.update(f"{name!a} {content.dtype} {content.shape}\n".encode())
        for begin, end in _read(len(content.data), total):
            digest.update(content.data[begin:end])
    return ("" if total <= WHOLE else "sampled:") + digest.hexdigest()


def _read(size: int, total: int) -> Iterator[tuple[int, int]]:
    """Which bytes of a tensor of `size` bytes are hashed, in a source of `total` bytes."""
    if total <= WHOLE:
        yield 0, size
        return
    blocks = size * (WHOLE // 4) // (total * BLOCK)
    if not blocks:
        yield 0, min(size, HEAD)
    for i in range(blocks):
        begin = (size - BLOCK) * i // max(1, blocks - 1)
        yield begin, begin + BLOCK


def shown(name: Any) -> str:
    """What a file says, cut and with control characters escaped, fit for a terminal."""
    text = ascii(name)
    return text if len(text) <= 80 else text[:77] + "..."


def other_format(start: bytes) -> str | None:
    """What a file that is not what it should be is instead, and what to do, as far as its first bytes tell."""
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and any(start[2:8])
    if pickled or start[:2] == b"PK":
        return f"is a pickle or an archive under another name: {UNSAFE}"
    if start[:8] == b"version ":
        return "is a pointer of Git LFS and not the file itself: run git lfs pull in its folder, or download it again"
    if start[:4] == b"GGUF":
        return "is a GGUF file: give it the ending .gguf"
    if start[:2] == b"<!" or start[:5] == b"<html":
        return "is a web page and not the file itself: download it again"
    return None
