"""Name rules: every rule and its inverse are the identity, and the operations say what the drawings say."""

from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.core.rules import Entry, Rule, Rules, rules

size = st.integers(1, 5)


def only(table: Rules) -> Rule:
    (rule,) = table.table
    return rule


def numbered(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def same(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    a, b = list(a), list(b)
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------------- what they do


def test_split_gives_equal_or_named_parts() -> None:
    x = numbered(6, 5)
    assert same(only(rules("a -> {q,k,v} | split")).forward([x], 3), (x[:2], x[2:4], x[4:]))
    assert same(only(rules("a -> {q,k,v} | split(3,1,2)")).forward([x], 3), (x[:3], x[3:4], x[4:]))


def test_transpose_comes_before_a_split_of_the_output() -> None:
    x = numbered(5, 6)  # [in, out], as GPT-2 keeps it
    rule = only(rules("a -> {q,k,v} | transpose split"))
    assert same(rule.forward([x], 3), (x[:, :2].T, x[:, 2:4].T, x[:, 4:].T))


def test_interleave_takes_each_heads_part() -> None:
    heads, kinds, width = 5, 3, 2  # rows: q0 q0 k0 k0 v0 v0 q1 q1 ...
    x = torch.tensor([[h, j, d] for h in range(heads) for j in range(kinds) for d in range(width)])
    parts = only(rules(f"a -> {{q,k,v}} | interleave({heads})")).forward([x], kinds)
    for j, part in enumerate(parts):
        assert part.tolist() == [[h, j, d] for h in range(heads) for d in range(width)]


def test_rotary_brings_pairs_into_halves_of_each_head() -> None:
    heads, pairs = 3, 5
    x = torch.tensor([[h, p, half] for h in range(heads) for p in range(pairs) for half in range(2)])
    (out,) = only(rules(f"a -> b | rotary({heads})")).forward([x])
    assert out.tolist() == [[h, p, half] for h in range(heads) for half in range(2) for p in range(pairs)]


# ------------------------------------------------------------------------------------------------ there and back


@st.composite
def a_rule(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """A rule, and the shapes of the file's tensors for it: every operation, in every order that makes sense."""
    heads, pairs, width, kinds = draw(size), draw(size), draw(size), draw(st.integers(2, 4))
    names = "{" + ",".join("abcd"[:kinds]) + "}"
    turned = f" rotary({heads})" if draw(st.booleans()) else ""
    rows = heads * 2 * pairs
    match draw(st.sampled_from(["one", "split", "sizes", "interleave", "join", "join sizes"])):
        case "one":
            line, shapes = f"x -> y |{turned}", [(rows, width)]
        case "split":
            line, shapes = f"x -> {names} | split{turned}", [(kinds * rows, width)]
        case "sizes":
            parts = [2 * heads * draw(size) for _ in range(kinds)]
            line, shapes = f"x -> {names} | split({','.join(map(str, parts))}){turned}", [(sum(parts), width)]
        case "interleave":
            line, shapes = f"x -> {names} | interleave({heads}){turned}", [(kinds * rows, width)]
        case "join":
            line, shapes = f"{names} -> y |{turned} join", [(rows, width)] * kinds
        case _:
            parts = [2 * heads * draw(size) for _ in range(kinds)]
            line, shapes = f"{names} -> y |{turned} join({','.join(map(str, parts))})", [(p, width) for p in parts]
    if draw(st.booleans()):
        line, shapes = line.replace("|", "| transpose"), [(w, r) for r, w in shapes]
    elif draw(st.booleans()):
        shapes = [(r,) for r, _ in shapes]  # a bias
    return line, shapes


@settings(deadline=None)
@given(a_rule())
def test_forward_and_inverse_undo_each_other(case: tuple[str, list[tuple[int, ...]]]) -> None:
    rule, given_ = only(rules(case[0])), [numbered(*shape) - i for i, shape in enumerate(case[1])]
    count = rule.target.count(",") + 1
    ours = rule.forward(given_, count)
    assert len(ours) == count
    file = rule.inverse(ours, len(given_))
    assert same(file, given_)
    assert same(rule.forward(file, count), ours)
    meta = rule.forward([t.to("meta") for t in given_], count)
    assert [t.shape for t in meta] == [t.shape for t in ours]


def test_another_order_of_operations_is_another_rule() -> None:
    """The negative control: splitting [in, out] before it is transposed cuts the wrong axis."""
    x = numbered(6, 6)
    right = only(rules("a -> {q,k,v} | transpose split")).forward([x], 3)
    wrong = only(rules("a -> {q,k,v} | split transpose")).forward([x], 3)
    assert not same(right, wrong)
    plain = only(rules("a -> {q,k,v} | split")).forward([x], 3)
    assert not same(plain, only(rules("a -> {q,k,v} | interleave(2)")).forward([x], 3))


# -------------------------------------------------------------------------------------------------------- names

TABLE = rules(
    "wte.weight               -> embed.tokens.weight",
    "h.{i}.ln.weight          -> blocks.{i}.norm.weight",
    "h.{i}.ln.bias            -> blocks.{i}.norm.bias",
    "h.{i}.attn.c_attn.weight -> blocks.{i}.attn.{q,k,v}.weight | transpose split",
    "h.{i}.attn.c_proj.weight -> blocks.{i}.attn.o.weight       | transpose",
    "h.{i}.{gate,up}.weight   -> blocks.{i}.mlp.up.weight       | join",
    "/lm_head.weight          -> head.weight                    | tie(embed.tokens.weight)",
    "h.{i}.attn.bias          -> ignore",
    prefix="transformer.",
    spellings={"gamma": "weight", "beta": "bias"},
)
PLAIN = ["wte.weight", *(f"h.{i}.{n}" for i in (0, 7, 12) for n in (
    "ln.weight", "ln.bias", "attn.c_attn.weight", "attn.c_proj.weight", "gate.weight", "up.weight"))]  # fmt: skip
WRITTEN = [f"transformer.{n}" for n in PLAIN]


def names(entries: list[Entry], side: str) -> list[str]:
    return [n for e in entries for n in getattr(e, side)]


def test_names_come_back_as_they_were() -> None:
    plan = TABLE.load([*WRITTEN, "lm_head.weight", "transformer.h.3.attn.bias"])
    assert plan.unused == plan.copies == [] and plan.ties == {}
    assert plan.ignored == ["transformer.h.3.attn.bias"]
    assert {"blocks.12.attn.k.weight", "blocks.7.mlp.up.weight", "head.weight"} <= plan.filled
    back = TABLE.save(names(plan.entries, "targets"))
    assert back.unused == []
    assert sorted(names(back.entries, "sources")) == sorted([*WRITTEN, "lm_head.weight"])
    assert sorted(names(back.entries, "targets")) == sorted(names(plan.entries, "targets"))


@settings(deadline=None)
@given(st.sets(st.integers(0, 10**6), max_size=5), st.booleans(), st.booleans())
def test_save_undoes_load_for_any_layers(layers: set[int], prefixed: bool, old: bool) -> None:
    file = [n.replace(".7.", f".{i}.") for i in layers for n in PLAIN if ".7." in n]
    spelled = [n.replace("ln.weight", "ln.gamma").replace("ln.bias", "ln.beta") for n in file] if old else file
    plan = TABLE.load([f"transformer.{n}" if prefixed else n for n in spelled])
    assert plan.unused == []
    back = TABLE.save(plan.filled)
    assert back.unused == [] and set(names(back.entries, "sources")) == {f"transformer.{n}" for n in file}


def test_what_the_file_leaves_out_may_be_tied() -> None:
    assert TABLE.load(PLAIN).ties == {"head.weight": "embed.tokens.weight"}


@pytest.mark.parametrize(
    "name",
    [
        "wte.weights", "xwte.weight", "wte.weight.", "wteXweight", "transformer.transformer.wte.weight",
        "model.wte.weight", "h.x.ln.weight", "h.-1.ln.weight", "h.01.ln.weight", "h.1.2.ln.weight", "h..ln.weight",
        "h.\u0663.ln.weight", "transformer.lm_head.weight", "h.0.gate.weight", "weight", "",
    ],
)  # fmt: skip
def test_a_name_that_no_rule_knows_is_unused(name: str) -> None:
    plan = TABLE.load([name])
    assert plan.unused == [name] and not plan.entries and not plan.ignored


def test_a_second_source_of_the_same_is_a_copy_that_has_to_be_equal() -> None:
    plan = TABLE.load(["wte.weight", "transformer.wte.weight", "h.0.ln.weight", "h.0.ln.gamma"])
    assert names(plan.entries, "sources") == ["wte.weight", "h.0.ln.weight"]
    assert names(plan.copies, "sources") == ["transformer.wte.weight", "h.0.ln.gamma"]


def test_a_part_of_a_group_cannot_be_written() -> None:
    some = ["blocks.0.attn.q.weight", "blocks.0.attn.v.weight", "nothing.weight"]
    assert TABLE.save(some).unused == some
    (entry,) = TABLE.save([*reversed(some), "blocks.0.attn.k.weight"]).entries
    assert entry.targets == tuple(f"blocks.0.attn.{x}.weight" for x in "qkv")


def test_the_number_is_the_same_on_both_sides() -> None:
    table = rules("a.{i}.b.{j} -> {j}.x.{i}")
    assert names(table.load(["a.3.b.5"]).entries, "targets") == ["5.x.3"]
    assert names(table.save(["5.x.3"]).entries, "sources") == ["a.3.b.5"]


def test_a_tower_is_the_same_table_under_a_prefix() -> None:
    whole = rules(*TABLE.under("text.", "language."), "logit_scale -> scale")
    plan = whole.load(["text.transformer.h.0.attn.c_attn.weight", "text.lm_head.weight", "logit_scale"])
    assert plan.filled == {"language.head.weight", "scale", *(f"language.blocks.0.attn.{x}.weight" for x in "qkv")}
    assert whole.load([]).ties == {"language.head.weight": "language.embed.tokens.weight"}
    assert names(whole.save(["language.head.weight"]).entries, "sources") == ["text.lm_head.weight"]


@pytest.mark.parametrize(
    "line",
    [
        "a", "a ->", "-> b", "a -> b | turn", "a -> {q,k} ", "a -> b | split", "{a,b} -> c", "a -> b | join",
        "a.{i} -> b", "{a,b} -> {c,d} | split join", "a -> b | rotary", "a -> {q,k} | interleave(2,3)",
        "a -> b | split(2",
    ],
)  # fmt: skip
def test_a_line_that_says_nothing_definite_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        rules(line)


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("x -> {q,k,v} | split", (7, 5)),
        ("x -> {q,k,v} | split(2,2,2)", (7, 5)),
        ("x -> {q,k,v} | interleave(2)", (9, 5)),
        ("x -> y | rotary(2)", (6, 5)),
        ("x -> y | transpose", (6,)),
        ("x -> {q,k,v} | split", ()),
        ("x -> y | rotary(2)", ()),
    ],
)
def test_a_shape_that_does_not_fit_is_named(line: str, shape: tuple[int, ...]) -> None:
    (entry,) = rules(line).load(["x"]).entries
    with pytest.raises(UsageError, match=r"^x: .*\[" + ", ".join(map(str, shape))):
        entry.forward([torch.zeros(shape)])


# ----------------------------------------------------------------------------------------------------- adapters


@settings(deadline=None)
@given(st.integers(1, 3), size, size, st.sampled_from(["transpose split", "split", "interleave", "rotary"]))
def test_a_low_rank_update_crosses_as_the_weight_does(rank: int, heads: int, width: int, kind: str) -> None:
    """weight + B A, carried over as a whole, is the weight carried over plus B carried over times the same A."""
    inputs, out = 7, heads * 6 * width
    right = {"interleave": f"{{q,k,v}} | interleave({heads})", "rotary": f"q | rotary({heads})"}.get(
        kind, f"{{q,k,v}} | {kind}"
    )
    table = rules("m.{i}.fused.weight -> b.{i}." + right.replace(" |", ".weight |"))
    a, b = torch.randn(rank, inputs), torch.randn(out, rank)
    update = b @ a
    (entry,) = table.load(["m.4.fused.weight"]).entries
    whole = entry.forward([update.T.contiguous() if "transpose" in kind else update])
    adapter = table.module("m.4.fused")
    assert adapter is not None and adapter.targets == tuple(t.removesuffix(".weight") for t in entry.targets)
    parts = adapter.forward([b])
    for one, part in zip(whole, parts, strict=True):
        torch.testing.assert_close(part @ a, one)
    (back,) = table.modules(adapter.targets).entries
    assert back.sources == ("m.4.fused",) and same(back.inverse(parts), [b])


def test_modules_that_no_rule_knows() -> None:
    assert TABLE.module("transformer.h.0.attn.c_fc") is None
    assert TABLE.modules(["blocks.0.attn.q", "mlp"]).unused == ["blocks.0.attn.q", "mlp"]
