"""What a change of a model's weights costs: the same texts by both models, compared at every token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from groundup.model import Model
from groundup.nn.stack import Encoder, EncoderDecoder
from groundup.peft.front import lay_alone

PASSAGES = (
    "The ferry leaves at seven in the morning and comes back before dark, unless the wind is from the north.",
    "A recipe for bread: mix five parts of flour with three of water, a little salt and yeast, and wait until it has doubled.",
    "def area(width: float, height: float) -> float:\n    return width * height",
    "Shares in the two largest banks fell by 3.2 per cent on Tuesday after both had said that profits would be lower.",
    '"What did you see?" she asked. He put down his cup and thought about it. "Nothing that I could swear to," he said.',
    "Water boils at 100 degrees Celsius at sea level; on a mountain of 3,000 metres it boils at about 90 degrees.",
    "1. Turn off the power. 2. Open the case with a small screwdriver. 3. Lift the old battery out, and note which side was up.",
    "The museum is closed on Mondays. Tickets cost twelve euros, and children under six go in free of charge.",
)
"""What both models read where no texts are given."""


@dataclass(frozen=True)
class Cost:
    """Compared at `tokens` tokens; `perplexity` is None where no next word is scored.

    max_dlogit  the largest difference of any score
    kl          the mean over tokens of Σ p log(p / q), p by the model before and q by the one after, in nats
    agreement   the share of tokens after which both find the same word likeliest
    cosine      the least cosine of two tokens' states, where a model scores no words
    """

    tokens: int
    max_dlogit: float
    kl: float | None = None
    agreement: float | None = None
    perplexity: float | None = None
    perplexity_after: float | None = None
    cosine: float | None = None

    def facts(self) -> dict[str, float | int]:
        """For files: what was measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        said = [f"largest difference of a score {self.max_dlogit:.3g}"]
        if self.kl is not None and self.agreement is not None:
            said += [f"KL {self.kl:.3g} nats a token", f"the same likeliest word after {self.agreement:.1%}"]
        if self.perplexity is not None and self.perplexity_after is not None:
            said.append(f"perplexity {self.perplexity:.2f} before and {self.perplexity_after:.2f} after")
        if self.cosine is not None:
            said.append(f"least cosine {self.cosine:.4f}")
        return f"{', '.join(said)} ({self.tokens:,} tokens)"


def cost(
    before: Model,
    after: Model,
    texts: Sequence[str | list[int]] = PASSAGES,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Cost:
    """Read the same texts (or ids) by both models; without a tokenizer, fixed ids in place of texts.

    Texts longer than the context are cut. Two halves (T5) read a text as their input, and its tokens as their answer.
    """
    rows = _rows(before, texts)
    largest, kl, agreed, least, tokens = 0.0, 0.0, 0, 1.0, 0
    losses, scored = [0.0, 0.0], 0
    words = before.config.labels is None and before.network.head is not None
    for number, ids in enumerate(rows, start=1):
        p, q = _states(before, ids), _states(after, ids)
        largest = max(largest, float((p - q).abs().max()))
        tokens += len(p)
        if not words:
            least = min(least, float(torch.cosine_similarity(p, q, dim=-1).min()))
        else:
            p, q = p.log_softmax(-1), q.log_softmax(-1)
            kl += float((p.exp() * (p - q)).sum())
            agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
            if not isinstance(before.network, Encoder) and len(ids) > 1:
                wanted = torch.tensor(ids[1:])[:, None]
                for i, scores in enumerate((p, q)):
                    losses[i] -= float(scores[: len(wanted)].gather(1, wanted).sum())
                scored += len(wanted)
        if on_progress is not None:
            on_progress(number, len(rows))
    if not words:
        return Cost(tokens, largest, cosine=least)
    perplexities = [math.exp(loss / scored) for loss in losses] if scored else [None, None]
    return Cost(tokens, largest, kl / tokens, agreed / tokens, *perplexities)


def _rows(model: Model, texts: Sequence[str | list[int]]) -> list[list[int]]:
    vocabulary = int(model.config.to_public()["vocab_size"])

    def ids(number: int, text: str | list[int]) -> list[int]:
        if not isinstance(text, str):
            return text
        if model.tokenizer is None:
            return [(7919 * (i + 1) * (number + 1)) % vocabulary for i in range(24)]
        return model.encode(text)

    return [row[: model.room] for number, text in enumerate(texts) if (row := ids(number, text))]


@torch.inference_mode()
def read_all(model: Model, rows: Sequence[list[int]], network: nn.Module, most: int = 16384) -> None:
    """Send rows through the blocks of a network like the model's in one call; what would make it more than `most` tokens is cut."""
    kept: list[list[int]] = []
    for row in rows:
        room = min(most - sum(map(len, kept)), model.room or most)
        if row[:room]:
            kept.append(row[:room])
    x, step, _ = lay_alone(network, kept, device=model.device)
    blocks = network.decoder if isinstance(network, EncoderDecoder) else network
    blocks.run(x, step)  # type: ignore[operator]


@torch.inference_mode()
def _states(model: Model, ids: list[int]) -> Tensor:
    """Scores of words, else of labels, else hidden states: at each token, float32 on the processor."""
    network, device = model.network, model.device
    x, step, own = lay_alone(network, [ids], adapters=model.adapter, device=device)
    if not isinstance(network, EncoderDecoder) and (network.head is None or model.config.labels is not None):
        states = network.run(x, step)
        if model.config.labels is not None:
            states = network.judge(states, step, torch.arange(len(states), device=device))
        return states[own[0] :].float().cpu()
    return network(x, step)[own[0] :].float().cpu()
