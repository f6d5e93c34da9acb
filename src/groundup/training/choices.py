"""Questions with choices, learned by T-Few's losses (Liu et al., arXiv 2205.05638, section 3.2).

Of a question x with the right choice y of T tokens and wrong ones w, each a mean so that a question counts once:

    L_LM    -1/T Σ log p(y_t | x, y_<t)                    the right choice becomes likely
    L_UL    -1/Σ T_w Σ_w Σ log(1 - p(w_t | x, w_<t))       the wrong ones' words become unlikely
    L_LN    -log softmax(β)_y, β = 1/T Σ log p(...)        the right one stands above them, per token

The loss is L_LM + unlikelihood · L_UL + length_normalised · L_LN; in the paper both weights are 1. Choices are read as they
are scored (`evaluation.choices`): without an end of text. The paper's code adds 0.01 within the logarithm of L_UL; here
1 - p is the share of all other words, and needs no help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groundup.core.errors import UsageError
from groundup.data.encode import EncodedRows, encode_all
from groundup.data.kinds import Row
from groundup.data.labelled import question
from groundup.data.rows import Dataset
from groundup.evaluation.choices import encode_choice
from groundup.inference.score import lay_trained
from groundup.inputs.tokenizer import Encoded, Tokenizer
from groundup.model import Model
from groundup.nn.stack import Decoder, Encoder, EncoderDecoder
from groundup.nn.step import Step
from groundup.training.objective import CHUNK, Objective


@dataclass(frozen=True)
class Asked(Encoded):
    """A question with each of its choices behind it, the right one first; ids and trained are those of the longest."""

    choices: list[Encoded]


def choose(model: Model, *, unlikelihood: float = 0.0, length_normalised: float = 0.0) -> Objective:
    """The objective for questions with choices, with these weights of L_UL and L_LN beside L_LM.

    UsageError for a model that does not go on with a text, and for weights below 0.
    """
    if isinstance(model.network, Encoder | EncoderDecoder) or model.network.head is None:
        raise UsageError(f"choices are learned by a model that goes on with a text, and {model.origin.name} does not")
    weights = {"unlikelihood": unlikelihood, "length-normalised": length_normalised}
    for name, weight in weights.items():
        if weight < 0:
            raise UsageError(f"{name} is {weight:g}: give a weight of 0 or more")
    told = [f" + {weight:g} {name}" for name, weight in weights.items() if weight]
    loss = partial(choice_loss, unlikelihood=unlikelihood, length_normalised=length_normalised)
    return Objective("choices" + "".join(told), partial(encode_choices, wrong=bool(told)), loss, lambda row: 1)


def encode_choices(dataset: Dataset, tokenizer: Tokenizer, max_tokens: int, *, wrong: bool = True) -> EncodedRows:
    """All questions as `Asked`; `wrong`: with the wrong choices too."""
    return encode_all(dataset, tokenizer, max_tokens, each=partial(_row, wrong=wrong), kinds=("choices",))


def _row(row: Row, tokenizer: Tokenizer, wrong: bool) -> Asked:
    asked = question(row)
    texts = [asked.choices[asked.answer], *(c for i, c in enumerate(asked.choices) if wrong and i != asked.answer)]
    choices = [encode_choice(asked.prompt, text, tokenizer) for text in texts]
    longest = max(choices, key=lambda choice: len(choice.ids))
    return Asked(longest.ids, longest.trained, choices)


def choice_loss(
    network: Decoder,
    rows: Sequence[Asked],
    *,
    unlikelihood: float = 0.0,
    length_normalised: float = 0.0,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, ""], int]:
    """The summed loss of these questions (the module's equations), and how many they are."""
    call = lay_trained(network, [choice for row in rows for choice in row.choices], adapter=adapter, device=device)
    assert network.head is not None
    x = network.run(call.ids, call.step).index_select(0, call.at)
    likely, unlikely = surprises(network.head, x, call.wanted, call.step.take(call.at))

    owner = torch.tensor(call.owner, device=device)  # the choice that each token belongs to
    sizes = owner.bincount()
    beta = likely.new_zeros(len(sizes)).index_add(0, owner, likely) / sizes
    count = [len(row.choices) for row in rows]
    loss = beta.new_zeros(())
    against = unlikely.new_zeros(len(sizes)).index_add(0, owner, unlikely)
    for scores, others, tokens in zip(beta.split(count), against.split(count), sizes.split(count), strict=True):
        loss = loss - scores[0]
        if unlikelihood:
            loss = loss - unlikelihood * others[1:].sum() / tokens[1:].sum()
        if length_normalised:
            loss = loss - length_normalised * scores.log_softmax(0)[0]
    return loss, len(rows)


def surprises(
    head: nn.Module, x: Float[Tensor, "N D"], wanted: Int[Tensor, " N"], step: Step
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """log p and log(1 - p) of each wanted word under the head's scores of x.

    The scores are made a chunk at a time, and again in the backward pass: they are never held for all words.
    """

    def chunk(part: Tensor, words: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        scores = head(part, step.take(index))
        scores = scores if scores.dtype == torch.float64 else scores.float()
        others = scores.scatter(1, words[:, None], -torch.inf).logsumexp(-1)
        every = scores.logsumexp(-1)
        return scores.gather(1, words[:, None])[:, 0] - every, others - every

    places = torch.arange(len(wanted), device=x.device).split(CHUNK)
    found = [checkpoint(chunk, x[index], wanted[index], index, use_reentrant=False) for index in places]
    likely, unlikely = zip(*found, strict=True)
    return torch.cat(likely), torch.cat(unlikely)
