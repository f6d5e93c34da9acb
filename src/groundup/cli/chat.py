"""`groundup chat`: a conversation, streamed."""

from __future__ import annotations

import sys

from groundup.cli.options import Common, Machine, Sampling, Which, open_model
from groundup.cli.output import note, result, write
from groundup.core.errors import UsageError

EXAMPLE = 'groundup chat smollm2-135m-instruct --system "Answer in one sentence."'


def run(
    model: str,
    /,
    *,
    system: str | None = None,
    which: Which = Which(),
    sampling: Sampling = Sampling(),
    machine: Machine = Machine(),
    common: Common = Common(),
) -> None:
    """Talk with a model. A line is a turn; /new begins anew, /exit or Ctrl-D ends.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder.
    system
        What the model is told before the first turn.
    """
    lm = open_model(model, which, machine)
    start = [{"role": "system", "content": system}] if system is not None else []
    messages = list(start)
    how = sampling.arguments() | sampling.ahead()
    spoken = sys.stdin.isatty()
    if spoken:
        note("A line is a turn. /new begins anew, /exit or Ctrl-D ends.")
    while (turn := _turn(spoken)) is not None:
        if turn == "/exit":
            break
        if turn == "/new":
            messages = list(start)
            continue
        messages.append({"role": "user", "content": turn})
        pieces: list[str] = []
        try:
            for piece in lm.stream(messages, **how):
                pieces.append(piece)
                if not common.json:
                    write(piece)
        except KeyboardInterrupt:
            if not spoken:
                raise
            note(" (cut short)")
        except UsageError as error:  # the conversation outgrew the context, say
            if not spoken:
                raise
            note(f"{error}\n/new begins anew")
            messages.pop()
            continue
        if not common.json:
            write("\n")
        messages.append({"role": "assistant", "content": "".join(pieces)})
    if common.json:
        result({"messages": messages}, "", as_json=True)


def _turn(spoken: bool) -> str | None:
    """The next line that says something, or None at the end."""
    while True:
        if spoken:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return None
        if line.strip():
            return line.strip()
