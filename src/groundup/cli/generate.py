"""`groundup generate`: go on from a prompt, or answer a file of rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.cli.answers import Answers
from groundup.cli.options import Common, Machine, Sampling, Which, open_model
from groundup.cli.output import note, result, write
from groundup.cli.progress import Progress
from groundup.core.errors import UsageError

if TYPE_CHECKING:
    from groundup.model import Model

EXAMPLE = 'groundup generate smollm2-135m-instruct "The capital of France is" --max-tokens 16 --temperature 0'


def run(
    model: str,
    prompt: str | None = None,
    /,
    *,
    data: Path | None = None,
    out: Path | None = None,
    batch: int = 64,
    n: int = 1,
    beams: int = 1,
    which: Which = Which(),
    sampling: Sampling = Sampling(),
    machine: Machine = Machine(),
    common: Common = Common(),
) -> None:
    """Go on from a prompt, or answer every row of a file.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder.
    prompt
        The text to go on from; left out, it is read from standard input.
    data
        A file of rows to answer (json, jsonl, csv, parquet, txt) instead of a prompt.
    out
        Where the answers to --data go, one JSON line a row. A killed job goes on where it was.
    batch
        How many rows of --data are answered at once.
    n
        How many answers to the prompt.
    beams
        Search with so many beams instead of drawing.
    """
    if (data is None) != (out is None):
        raise UsageError("--data and --out belong together: the rows to answer, and where the answers go")
    if data is not None and out is not None:
        if prompt is not None or n != 1 or beams != 1:
            raise UsageError("--data answers each row once: leave the prompt, --n and --beams out")
        _answer_file(model, data, out, batch, which, sampling, machine, common)
        return
    if prompt is None:
        if sys.stdin.isatty():
            note("reading the prompt from standard input, up to Ctrl-D")
        prompt = sys.stdin.read()
    lm = open_model(model, which, machine)
    if n == 1 and beams == 1 and not common.json:
        for piece in lm.stream(prompt, **sampling.arguments(), **sampling.ahead()):
            write(piece)
        write("\n")
        return
    found = lm.generate(prompt, n=n, beams=beams, **sampling.arguments(), **sampling.ahead())
    answers = [found] if isinstance(found, str) else list(found)
    result({"prompt": prompt, "answers": answers}, "\n\n".join(answers), as_json=common.json)


def _answer_file(
    model: str, data: Path, out: Path, batch: int, which: Which, sampling: Sampling, machine: Machine, common: Common
) -> None:
    """Answer the rows of `data` that `out` does not have yet."""
    from groundup.core.files import sha256
    from groundup.data.encode import prompt_of, tools_of
    from groundup.data.rows import read

    rows = read(data, answers=False)
    note(str(rows))
    job: dict[str, Any] = {
        "model": model,
        "adapter": which.adapters,
        "revision": which.revision,
        "data": sha256(rows.path or data),
        "precision": machine.precision,
        **sampling.arguments(),
    }
    with Answers(out, job) as answers:
        left = [index for index in range(len(rows)) if index not in answers.done]
        if len(left) < len(rows):
            note(f"{len(rows) - len(left)} of {len(rows)} rows are answered already")
        if left:
            lm: Model = open_model(model, which, machine)
            prompts = [prompt_of(rows[index], lm.tokenizer) for index in left]
            tools = [tools_of(rows[index]) for index in left]
            with Progress("row") as progress:

                def keep(index: int, text: str) -> None:
                    answers.add(left[index], text)
                    progress.update(len(answers.done), len(rows))

                try:
                    how = sampling.arguments() | sampling.ahead()
                    lm.answer(prompts, tools=tools, batch=batch, on_answer=keep, **how)
                except KeyboardInterrupt:
                    progress.say(
                        f"{len(answers.done)} of {len(rows)} answers kept; the same command goes on from there"
                    )
                    raise
        answers.finish(rows.rows)
    result({"out": str(out), "rows": len(rows)}, f"{len(rows)} answers in {out}", as_json=common.json)
