"""The two ways to ask for answers: all of them when they are done, and one piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from groundup.core.errors import UsageError
from groundup.inference.engine import Answer, Engine, Filters
from groundup.inference.sampling import Sampling
from groundup.inference.speculate import Draft
from groundup.inputs.tokenizer import Tokenizer
from groundup.nn.stack import Decoder, EncoderDecoder


def answer(
    network: Decoder | EncoderDecoder,
    prompts: Sequence[list[int]],
    *,
    sampling: Sampling,
    stop_ids: frozenset[int] = frozenset(),
    tokenizer: Tokenizer | None = None,
    context: int | None = None,
    adapters: str | None | Sequence[str | None] = None,
    filters: Filters = (),
    batch: int = 32,
    on_token: Callable[[int, int], None] | None = None,
    on_answer: Callable[[int, Answer], None] | None = None,
    device: torch.device | str | None = None,
    decoder_start: int | None = None,
    draft: Draft | None = None,
) -> list[Answer]:
    """The answers to these prompts, in their order; `sampling.n` of them to each, one after the other.

    context         the longest row that the network can hold (None: any)
    adapters        one for all prompts, or one for each
    batch           rows that are answered at the same time, at most
    on_token        called with (number of the answer, id) for each token
    on_answer       called with (number of the answer, Answer) when it is done; they come in any order
    decoder_start   the id with which an encoder-decoder's answers begin
    draft           what guesses several tokens ahead (`inference.speculate`); the answers are as without
    tokenizer       None leaves texts empty (and allows no stop texts)

    Raises UsageError where a prompt is empty or does not fit the context with max_tokens.
    """
    was = network.training
    network.eval()
    try:
        engine = Engine(
            network,
            prompts,
            sampling=sampling,
            stop_ids=stop_ids,
            tokenizer=tokenizer,
            context=context,
            adapters=adapters,
            filters=filters,
            batch=batch,
            device=device,
            decoder_start=decoder_start,
            draft=draft,
        )
        answers: list[Answer | None] = [None for _ in range(len(prompts) * sampling.n)]
        while engine.busy:
            for row in engine.advance():
                if on_token is not None:
                    for token in row.fresh:
                        on_token(row.number, token)
                if row.finish is not None:
                    answers[row.number] = done = engine.answer_of(row)
                    if on_answer is not None:
                        on_answer(row.number, done)
        return [a for a in answers if a is not None]
    finally:
        network.train(was)


def stream(
    network: Decoder | EncoderDecoder,
    prompt: list[int],
    *,
    sampling: Sampling,
    tokenizer: Tokenizer,
    stop_ids: frozenset[int] = frozenset(),
    context: int | None = None,
    adapters: str | None = None,
    filters: Filters = (),
    device: torch.device | str | None = None,
    decoder_start: int | None = None,
    draft: Draft | None = None,
) -> Iterator[str]:
    """The answer to one prompt piece by piece: never half a character, and nothing that may belong to a stop text."""
    if sampling.n > 1 or sampling.beams > 1:
        raise UsageError(f"one answer can be streamed, not n={sampling.n} of beams={sampling.beams}")
    engine = Engine(
        network,
        [prompt],
        sampling=sampling,
        stop_ids=stop_ids,
        tokenizer=tokenizer,
        context=context,
        adapters=adapters,
        filters=filters,
        batch=1,
        device=device,
        decoder_start=decoder_start,
        draft=draft,
        read=True,
    )
    return _pieces(network, engine)


def _pieces(network: Decoder | EncoderDecoder, engine: Engine) -> Iterator[str]:
    was = network.training
    network.eval()
    try:
        while engine.busy:
            for row in engine.advance():
                assert row.reader is not None
                piece = row.reader.take()
                if piece:
                    yield piece
    finally:
        network.train(was)
