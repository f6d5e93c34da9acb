"""The laws of `Slots`: whatever is done to it, what a row sees is what it was given, no more and no less."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from groundup.models import gpt2, llama, t5
from groundup.nn.cache import Fresh, Shared, Slots
from groundup.nn.step import Step

VOCABULARY, ROWS, CAPACITY = 23, 5, 19


def joined(rows: list[list[int]]) -> Tensor:
    return torch.tensor([i for row in rows for i in row])


def drawn(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.4
    return network.eval()


LLAMA = drawn(
    llama.build(
        llama.Config(
            vocab_size=VOCABULARY, hidden_size=12, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
            intermediate_size=9, num_hidden_layers=2,
        )
    )
)  # fmt: skip
GPT2 = drawn(gpt2.build(gpt2.Config(vocab_size=VOCABULARY, n_embd=15, n_head=3, n_layer=2, n_positions=40)))
T5 = drawn(
    t5.build(
        t5.Config(
            vocab_size=VOCABULARY, d_model=15, d_kv=4, d_ff=11, num_heads=3, num_layers=2,
            relative_attention_num_buckets=6, relative_attention_max_distance=9,
        )
    )
)  # fmt: skip


@torch.no_grad()
def alone(network: nn.Module, ids: list[int]) -> Tensor:
    """Logits of a whole row without any cache."""
    return network(torch.tensor(ids), Step.of([len(ids)], Fresh()))


@dataclass
class Held:
    """A cache beside a plain list of what every row should hold."""

    network: nn.Module
    cache: Slots = field(default_factory=lambda: Slots(ROWS, CAPACITY))
    ids: list[list[int]] = field(default_factory=lambda: [[] for _ in range(ROWS)])

    @torch.no_grad()
    def feed(self, new: dict[int, list[int]]) -> None:
        """One call that gives every row in `new` its tokens; its logits must be those of the rows alone."""
        slots, lengths = list(new), [len(v) for v in new.values()]
        step = Step.of(lengths, self.cache, slots=slots)
        logits = self.network(joined(list(new.values())), step)
        self.cache.advance(step)
        for slot, got in zip(slots, logits.split(lengths), strict=True):
            self.ids[slot] += new[slot]
            if len(got):
                want = alone(self.network, self.ids[slot])[-len(got) :]
                torch.testing.assert_close(got, want, rtol=0, atol=1e-11)

    def check(self) -> None:
        assert self.cache.lengths(range(ROWS)) == tuple(map(len, self.ids))
        ready = {s: [7] for s in reversed(range(ROWS)) if len(self.ids[s]) < CAPACITY}
        if ready:
            self.feed(ready)


token = st.integers(0, VOCABULARY - 1)


@pytest.mark.parametrize("network", [LLAMA, GPT2], ids=["llama", "gpt2"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_history_is_the_rows_alone(network: nn.Module, data: st.DataObject) -> None:
    """Rows join, go on in ragged pieces, leave, copy, roll back and change places, in any order."""
    held = Held(network)
    for _ in range(data.draw(st.integers(2, 6))):
        row = st.integers(0, ROWS - 1)
        match data.draw(st.sampled_from(["feed", "feed", "feed", "rollback", "free", "copy", "move", "reorder"])):
            case "feed":
                order = data.draw(st.lists(row, min_size=1, unique=True))
                room = {s: CAPACITY - 1 - len(held.ids[s]) for s in order}
                new = {s: data.draw(st.lists(token, min_size=1, max_size=min(5, n))) for s, n in room.items() if n > 0}
                if new:
                    held.feed(new)
            case "rollback":
                slot = data.draw(row)
                n = data.draw(st.integers(0, len(held.ids[slot])))
                held.cache.rollback(slot, n)
                held.ids[slot] = held.ids[slot][: len(held.ids[slot]) - n]
            case "free":
                slot = data.draw(row)
                held.cache.free(slot)
                held.ids[slot] = []
            case "copy":
                source = data.draw(row)
                targets = data.draw(st.lists(row.filter(lambda r, s=source: r != s), min_size=1, unique=True))
                held.cache.copy(source, targets)
                for slot in targets:
                    held.ids[slot] = list(held.ids[source])
            case "move":
                source, target = data.draw(st.lists(row, min_size=2, max_size=2, unique=True))
                held.cache.move(source, target)
                held.ids[target], held.ids[source] = held.ids[source], []
            case "reorder":
                order = data.draw(st.lists(row, min_size=ROWS, max_size=ROWS))
                held.cache.reorder(order)
                held.ids = [list(held.ids[i]) for i in order]
    held.check()


def test_growing_keeps_what_is_held() -> None:
    held = Held(LLAMA, Slots(ROWS, 4))
    held.feed({3: [1, 2, 3, 4], 1: [5]})
    held.cache.grow(9)
    held.feed({1: [6, 7], 3: [8, 9]})
    assert held.cache.capacity == 9


def test_one_token_a_call_in_any_slots() -> None:
    for slots in ([0, 1, 2], [3, 1, 4], [2], [4, 3]):
        held = Held(LLAMA)
        for i in range(7):
            held.feed({s: [(3 * i + s) % VOCABULARY] for s in slots})


def test_writing_again_changes_nothing() -> None:
    """Recomputation in the backward pass repeats a call before the caller advances."""
    cache = Slots(ROWS, CAPACITY)
    step = Step.of([3, 2], cache, slots=[2, 0])
    ids = torch.tensor([1, 5, 9, 4, 4])
    with torch.no_grad():
        first = LLAMA(ids, step)
        again = LLAMA(ids, step)
    assert torch.equal(first, again) and cache.lengths([2, 0]) == (0, 0)
    cache.advance(step)
    cache.advance(step)
    assert cache.lengths([2, 0]) == (3, 2)


def test_more_cannot_be_taken_back_than_is_held() -> None:
    held = Held(LLAMA)
    held.feed({1: [4, 5, 6]})
    with pytest.raises(ValueError, match="row 1 holds 3 keys; cannot take back 4"):
        held.cache.rollback(1, 4)
    with pytest.raises(ValueError, match="cannot take back -1"):
        held.cache.rollback(1, -1)


def test_what_a_freed_row_held_is_not_seen_by_the_next() -> None:
    held = Held(LLAMA)
    held.feed({1: [4, 5, 6, 7, 8], 2: [1]})
    held.cache.free(1)
    held.ids[1] = []
    for tensors in held.cache.kept.values():  # what is left behind may be anything
        for t in tensors:
            t[1] = torch.nan_to_num(t[1]) + 1e3
    held.feed({1: [9, 2], 2: [3, 3, 3]})
    held.feed({1: [1], 2: [2]})


def test_an_empty_row_of_a_call_changes_nothing() -> None:
    held = Held(GPT2)
    held.feed({0: [1, 2, 3], 3: [5]})
    held.feed({0: [4, 4], 3: []})
    held.feed({0: [1], 3: [6]})


@torch.no_grad()
def test_a_shared_beginning_is_each_rows_past() -> None:
    begin, rows = [3, 1, 4, 1, 5], [[9, 2], [6], [5, 3, 5, 8]]
    lengths = [len(begin), *map(len, rows)]
    got = LLAMA(joined([begin, *rows]), Step.of(lengths, Shared())).split(lengths)
    torch.testing.assert_close(got[0], alone(LLAMA, begin), rtol=0, atol=1e-11)
    for row, logits in zip(rows, got[1:], strict=True):
        torch.testing.assert_close(logits, alone(LLAMA, begin + row)[len(begin) :], rtol=0, atol=1e-11)


def test_gradients_add_up_in_a_shared_beginning() -> None:
    begin, rows = [3, 1, 4, 1, 5], [[9, 2], [6], [5, 3, 5, 8]]
    lengths = [len(begin), *map(len, rows)]
    table = LLAMA.embed.tokens.weight.values
    table.requires_grad_(True)
    try:
        logits = LLAMA(joined([begin, *rows]), Step.of(lengths, Shared()))
        (shared,) = torch.autograd.grad(logits[len(begin) :].square().sum(), [table])
        whole = [len(begin) + len(r) for r in rows]
        apart = LLAMA(joined([begin + r for r in rows]), Step.of(whole, Fresh())).split(whole)
        (each,) = torch.autograd.grad(sum(a[len(begin) :].square().sum() for a in apart), [table])
    finally:
        table.requires_grad_(False)
    torch.testing.assert_close(shared, each, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------ memory


@torch.no_grad()
def remember(cache: Slots | Fresh, sources: list[list[int]], ids: list[list[int]], slots: list[int]) -> Tensor:
    lengths = [len(s) for s in sources]
    memory = T5.encode(joined(sources), Step.of(lengths, Fresh()))
    step = Step.of([len(i) for i in ids], cache, slots=slots, memory=memory)
    logits = T5(joined(ids), step)
    if isinstance(cache, Slots):
        cache.advance(step)
    return logits


def test_memory_is_filled_once_and_follows_its_row() -> None:
    cache = Slots(ROWS, CAPACITY)
    source = {3: [1, 2, 3, 4], 0: [9], 2: [5, 6, 7, 8, 1, 2, 3]}
    said = {3: [0, 4], 0: [0], 2: [0, 8, 8]}
    for joins in ([3, 0], [2]):  # the second memory is longer than the room made for the first
        remember(cache, [source[s] for s in joins], [said[s] for s in joins], joins)
    cache.copy(2, [4])
    source[4], said[4] = source[2], list(said[2])
    order = [2, 1, 0, 3, 4]
    cache.reorder(order)
    source, said = ({order.index(s): v[s] for s in v} for v in (source, said))
    for _ in range(2):
        slots = [4, 0, 3, 2]
        step = Step.of([1] * 4, cache, slots=slots)
        with torch.no_grad():
            got = T5(torch.tensor([7] * 4), step)
        cache.advance(step)
        for slot, logits in zip(slots, got, strict=True):
            said[slot] = [*said[slot], 7]
            want = remember(Fresh(), [source[slot]], [said[slot]], [0])[-1]
            torch.testing.assert_close(logits, want, rtol=0, atol=1e-11)


def test_cross_attention_without_a_memory_says_so() -> None:
    with pytest.raises(LookupError, match=r"decoder\.blocks\.0\.cross.*memory"):
        T5(torch.tensor([1, 2]), Step.of([2], Fresh()))
