"""`groundup embed`: texts as vectors.

A file's vectors are kept as they come: `OUT.part` holds a first line that says what job this is, and then the vectors
themselves (float32), so that a killed job goes on where it was. When all are there, `OUT` is written at once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from groundup.cli.options import Common, Machine, Which, open_model, refuse_existing
from groundup.cli.output import note, result
from groundup.cli.progress import Progress
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from groundup.model import Model

EXAMPLE = "groundup embed all-minilm-l6-v2 --data rows.jsonl --field text --out rows.npy"

KEPT = 8  # batches between two writes: rows of like lengths are sought among so many


def run(
    model: str,
    /,
    *text: str,
    data: Path | None = None,
    field: str = "text",
    out: Path | None = None,
    batch: int = 32,
    pooling: Literal["mean", "first", "last"] | None = None,
    truncate: bool = False,
    which: Which = Which(),
    machine: Machine = Machine(),
    common: Common = Common(),
) -> None:
    """Turn texts into vectors of unit length; with several texts, their cosines are shown.

    Parameters
    ----------
    model
        A starter (all-minilm-l6-v2), a hub id or a folder.
    text
        One text or several.
    data
        A file of rows instead (json, jsonl, csv, parquet, txt).
    field
        The field of each row that is read.
    out
        Where the vectors go: .npy (float32, a row each) or .jsonl. A killed job with --data goes on where it was.
    batch
        How many texts are read at once.
    pooling
        Of the tokens: mean, first or last. Left out: what the model's folder says, or else what suits the model.
    truncate
        Cut texts that are longer than the model reads, instead of stopping at the first one.
    """
    if (data is None) == (not text):
        raise UsageError("give texts, or --data with a file of rows: one of the two")
    if data is not None and out is None:
        raise UsageError("--data needs --out: a .npy or .jsonl file for the vectors")
    if out is not None:
        refuse_existing(out)
        if out.suffix not in (".npy", ".jsonl"):
            raise UsageError(f"--out {out} must end in .npy or .jsonl")
    if batch < 1:
        raise UsageError(f"--batch must be 1 or more, not {batch}")
    texts = list(text) if data is None else read_texts(data, field)
    # float32 unless asked: the same text gets the same vector, whatever is fast here
    lm = open_model(model, which, machine, precision="float32" if machine.precision == "auto" else None)
    how: dict[str, Any] = {"pooling": pooling, "truncate": truncate, "batch": batch}
    if out is None or data is None:
        found = lm.embed(texts, **how).cpu()
        if out is not None:
            _write(out, texts, found.numpy())
        vectors, cosines = found.tolist(), (found @ found.T).tolist()
        told = {"texts": texts, "vectors": vectors, "cosines": cosines}
        result(told, _shown(texts, vectors, cosines), as_json=common.json)
        return
    job = {"model": lm.origin.fingerprint, "adapter": which.adapters, "precision": lm.precision}
    kept = _embed_file(lm, texts, out, job | {"pooling": pooling, "truncate": truncate}, how)
    _write(out, texts, kept)
    part_of(out).unlink()
    result({"out": str(out), "rows": len(texts), "width": kept.shape[1]}, f"{len(texts)} vectors in {out}",
           as_json=common.json)  # fmt: skip


def read_texts(data: Path, field: str) -> list[str]:
    """One field of every row of a file. UsageError names the first row that has no text there."""
    from groundup.data import formats
    from groundup.data.problems import Problem

    path = formats.find(data)
    texts = []
    for found in formats.records(path):
        if isinstance(found, Problem):
            raise UsageError(str(found))
        line, record = found
        value = record.get(field)
        if not isinstance(value, str):
            there = ", ".join(sorted(record)) or "nothing"
            raise UsageError(
                f"{path.name} {formats.unit(path)} {line} has no text in {field!r} but {there}: name a --field"
            )
        texts.append(value)
    if not texts:
        raise UsageError(f"{path} holds no rows")
    return texts


def part_of(out: Path) -> Path:
    """Where the vectors of an unfinished job are kept."""
    return out.with_name(out.name + ".part")


def _embed_file(lm: Model, texts: Sequence[str], out: Path, job: dict[str, Any], how: dict[str, Any]) -> NDArray[Any]:
    """The vectors of all texts, those that an earlier run of the same job kept and the rest."""
    import hashlib

    import numpy as np

    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    head = json.dumps({**job, "texts": digest}, default=str).encode() + b"\n"
    part, step = part_of(out), KEPT * how["batch"]
    part.parent.mkdir(parents=True, exist_ok=True)
    width = lm.embed(texts[:1], **how).shape[1]
    kept = part.read_bytes() if part.exists() else b""
    if not kept.startswith(head):
        if not head.startswith(kept):
            raise UsageError(f"{part} belongs to another job: remove it or name another --out")
        part.write_bytes(head)
    done = (part.stat().st_size - len(head)) // (4 * width)
    if done:
        note(f"{done} of {len(texts)} texts are done already")
    with part.open("r+b") as file, Progress("text") as progress:
        file.truncate(len(head) + 4 * width * done)  # a vector that was being written goes
        file.seek(0, io.SEEK_END)
        for begin in range(done, len(texts), step):
            group = texts[begin : begin + step]

            def tell(done: int, of: int, begin: int = begin) -> None:
                progress.update(begin + done, len(texts))

            try:
                vectors = lm.embed(group, **how, on_rows=tell)
            except UsageError as error:
                raise UsageError(f"of the texts from {begin + 1} on, {error}") from None
            except KeyboardInterrupt:
                progress.say(f"{begin} of {len(texts)} vectors kept; the same command goes on from there")
                raise
            file.write(vectors.cpu().numpy().astype("<f4").tobytes())
            file.flush()
    held = np.frombuffer(part.read_bytes()[len(head) :], "<f4").reshape(-1, width)
    if len(held) != len(texts):
        raise GroundupError(f"{part} holds {len(held)} vectors for {len(texts)} texts: remove it and begin again")
    return held


def _write(out: Path, texts: Sequence[str], vectors: NDArray[Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        import numpy as np

        page = io.BytesIO()
        np.save(page, np.asarray(vectors, dtype="<f4"), allow_pickle=False)
        atomic_write(out, page.getvalue())
        return
    rows = ({"text": text, "vector": row.tolist()} for text, row in zip(texts, vectors, strict=True))
    atomic_write(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _shown(texts: Sequence[str], vectors: Sequence[Sequence[float]], cosines: Sequence[Sequence[float]]) -> str:
    lines = [
        f"{i + 1}  {len(v)} numbers, {', '.join(f'{x:.4f}' for x in v[:4])} ...  {' '.join(t.split())[:60]}"
        for i, (t, v) in enumerate(zip(texts, vectors, strict=True))
    ]
    if len(texts) > 1:
        lines += ["", "cosines", "".join(f"{i + 1:>8}" for i in range(len(texts)))]
        lines += [f"{i + 1:<3}" + "".join(f"{c:8.3f}" for c in line)[3:] for i, line in enumerate(cosines)]
    return "\n".join(lines)
