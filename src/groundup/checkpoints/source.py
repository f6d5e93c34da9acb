"""What a file of weights offers, whatever its format: names, shapes, and tensors that are read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from groundup.core.files import explained, sha256

WHOLE = 1 << 30
"""Sources of at most this many bytes (1 GiB) are hashed whole."""
BLOCK = 1 << 20
BLOCKS = 256


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


def fingerprint(files: Sequence[tuple[Path, int]]) -> str:
    """A name for the content of (file, length of its header in bytes), in the order given.

    Up to 1 GiB in all it is the SHA-256 of the content: of a single file, what `sha256sum` prints; of several, the
    SHA-256 over their SHA-256s. Above, "sampled:" and a SHA-256 over every file's size and header and 256 blocks of
    1 MiB spread evenly over it. That recognises a model in a second; it is no protection against one who forges it.
    """
    with explained(files[0][0]):
        sizes = [path.stat().st_size for path, _ in files]
    if sum(sizes) <= WHOLE:
        digests = [sha256(path) for path, _ in files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    total = hashlib.sha256()
    for (path, header), size in zip(files, sizes, strict=True):
        total.update(f"{size} {header}\n".encode())
        with explained(path), path.open("rb") as file:
            total.update(file.read(header))
            for i in range(BLOCKS):
                # the first block starts the file, the last one ends it
                file.seek(max(0, size - BLOCK) * i // (BLOCKS - 1))
                total.update(file.read(BLOCK))
    return f"sampled:{total.hexdigest()}"
