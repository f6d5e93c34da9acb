"""`groundup interpret`: look inside a model; each verb prints what it saw, and draws it with --out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App

from groundup.cli.options import Common, Place, Which, open_model, refuse_existing, words
from groundup.cli.output import note, result
from groundup.core.errors import UsageError

if TYPE_CHECKING:
    from groundup.interpret.tables import Positions

app = App(
    help="Look inside a model: attention, layers, embeddings, positions, masks.",
    help_epilogue='Example:\n  groundup interpret lens smollm2-135m-instruct "The capital of France is" --out lens.png',
    help_format="plaintext",
)


def _checked(out: Path | None) -> None:
    """Nothing is computed for a picture that could not be written."""
    if out is not None:
        refuse_existing(out)
        if out.suffix != ".png":
            raise UsageError(f"--out {out} must end in .png")


def _drawn(out: Path | None) -> None:
    if out is not None:
        note(f"wrote {out}")


@app.command(
    name="attention",
    help_epilogue='Example:\n  groundup interpret attention all-minilm-l6-v2 "The cat sat on the mat" --layer 0 --out a.png',
)
def attention_(
    model: str,
    text: str,
    /,
    *,
    answer: str | None = None,
    part: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    out: Path | None = None,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Show which tokens look at which: all layers and heads, the heads of one layer, or one head token by token.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder.
    text
        What the model reads.
    answer
        What an encoder-decoder's decoder reads beside it.
    part
        Which attention, where there are several: encoder.attn, decoder.attn, decoder.cross.
    layer
        One layer; -1 is the last.
    head
        One head of it.
    out
        Draw it into this .png file.
    """
    from groundup.interpret import look, pictures

    _checked(out)
    if head is not None and layer is None:
        raise UsageError("--head needs --layer: which layer's head?")
    maps = pictures.chosen(
        look.attention(open_model(model, which, place), text, answer=answer or ""), part=part, layer=layer
    )
    heads = len(maps[0].weights)
    if head is not None and not 0 <= head < heads:
        raise UsageError(f"head {head}: {maps[0].path} has heads 0 to {heads - 1}")
    if out is not None:
        pictures.attention(maps, out, head=head)
    last = maps[-1]
    shown = last.weights[head] if head is not None else last.weights.mean(0)
    best = shown.topk(min(3, shown.shape[1]))
    lines = [f"{last.path}, {'mean of all heads' if head is None else f'head {head}'}: who is looked at most"]
    wide = max(len(_token(token)) for token in last.queries)
    for token, keys, shares in zip(last.queries, best.indices.tolist(), best.values.tolist(), strict=True):
        looks = "  ".join(f"{_token(last.keys[k])} {share:.2f}" for k, share in zip(keys, shares, strict=True))
        lines.append(f"{_token(token):{wide}}  {looks}")
    data = [
        {
            "path": m.path,
            "queries": m.queries,
            "keys": m.keys,
            "weights": (m.weights if head is None else m.weights[head : head + 1]).tolist(),
        }
        for m in maps
    ] if common.json else []  # fmt: skip
    result({"maps": data, "out": out}, "\n".join(lines), as_json=common.json)
    _drawn(out)


@app.command(
    name="lens",
    help_epilogue='Example:\n  groundup interpret lens smollm2-135m-instruct "The capital of France is" --out lens.png',
)
def lens_(
    model: str,
    text: str,
    /,
    *,
    answer: str | None = None,
    top: int = 3,
    out: Path | None = None,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Show what each layer would say next, if the head read it (the logit lens).

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder.
    text
        What the model reads.
    answer
        What an encoder-decoder's decoder reads beside it.
    top
        How many words of each layer.
    out
        Draw all layers and tokens into this .png file.
    """
    from groundup.interpret import look, pictures

    _checked(out)
    seen = look.logit_lens(open_model(model, which, place), text, answer=answer or "", top=top)
    if out is not None:
        pictures.lens(seen, out)
    wide = max(len(layer) for layer in seen.layers)
    lines = [f"after {' '.join(map(_token, seen.tokens[-3:]))}; rank: of what the last layer says, in this one"]
    for layer, said, shares, ranks in zip(seen.layers, seen.words, seen.probability, seen.rank, strict=True):
        best = "  ".join(f"{_token(w)} {p:.3f}" for w, p in zip(said[-1], shares[-1].tolist(), strict=True))
        lines.append(f"{layer:{wide}}  rank {int(ranks[-1]):>6,}  {best}")
    data = {
        "tokens": seen.tokens,
        "layers": seen.layers,
        "words": seen.words,
        "probability": seen.probability.tolist(),
        "rank": seen.rank.tolist(),
        "out": out,
    }
    result(data, "\n".join(lines), as_json=common.json)
    _drawn(out)


@app.command(
    name="embeddings",
    help_epilogue="Example:\n  groundup interpret embeddings all-minilm-l6-v2 animals=cat,dog,cow tools=saw,axe,hammer --out e.png",
)
def embeddings_(
    model: str,
    /,
    *groups: str,
    out: Path | None = None,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Show where texts lie among each other, and how well their groups stand apart.

    Parameters
    ----------
    model
        A starter (all-minilm-l6-v2), a hub id or a folder.
    groups
        Groups of words or texts, each as NAME=one,two,three.
    out
        Draw the map into this .png file.
    """
    from groundup.interpret import pictures, vectors

    _checked(out)
    texts, names = [], []
    for group in groups:
        name, equals, members = group.partition("=")
        mine = words([members])
        if not equals or not name.strip() or not mine:
            raise UsageError(f"{group!r} is no group: write NAME=one,two,three")
        texts += mine
        names += [name.strip()] * len(mine)
    if not texts:
        raise UsageError("name the groups, each as NAME=one,two,three")
    found = vectors.embedding_map(open_model(model, which, place), texts, names)
    if out is not None:
        pictures.embedding_map(found, out)
    silhouette = "-" if found.silhouette is None else f"{found.silhouette:.3f}"
    lines = [f"silhouette {silhouette}; the map shows {sum(found.explained):.0%} of all differences"]
    lines += [
        f"{x:8.3f} {y:8.3f}  {group}  {text}"
        for (x, y), group, text in zip(found.points.tolist(), found.groups, found.texts, strict=True)
    ]
    data = vars(found) | {"points": found.points.tolist(), "out": out}
    result(data, "\n".join(lines), as_json=common.json)
    _drawn(out)


@app.command(
    name="positions",
    help_epilogue="Example:\n  groundup interpret positions sinusoidal --length 64 --width 32 --out p.png",
)
def positions_(
    of: str,
    /,
    *,
    length: int = 64,
    width: int = 64,
    heads: int = 8,
    base: float = 10000.0,
    out: Path | None = None,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Show how places are told apart: sinusoidal, rotary or alibi by their formula, or what a model has.

    Parameters
    ----------
    of
        sinusoidal, rotary, alibi, or a model.
    length
        How many places.
    width
        Of the formula: the numbers of a token (sinusoidal) or of a head (rotary).
    heads
        Of the formula: how many heads (alibi).
    base
        Of the formula: the longest wavelength is about 2 pi times this.
    out
        Draw it into this .png file; where a model has several tables, each gets its own.
    """
    from groundup.interpret import pictures, tables

    _checked(out)
    source = of if of in tables.FORMULAS else open_model(of, which, place)
    found = tables.positions(source, length, width=width, heads=heads, base=base)
    files = _numbered(out, len(found))
    for table, file in zip(found, files, strict=False):
        pictures.positions(table, file)
    data = [{"kind": t.kind, "path": t.path, "values": t.values.tolist()} for t in found] if common.json else []
    result({"tables": data, "out": files}, "\n".join(map(_table, found)), as_json=common.json)
    for file in files:
        _drawn(file)


def _numbered(out: Path | None, count: int) -> list[Path]:
    """One file for each of several pictures."""
    if out is None:
        return []
    files = [out, *(out.with_stem(f"{out.stem}-{i}") for i in range(2, count + 1))]
    for file in files[1:]:
        refuse_existing(file)
    return files


def _table(table: Positions) -> str:
    shape = " x ".join(map(str, table.values.shape))
    low, high = float(table.values.min()), float(table.values.max())
    return f"{table.kind}{f' at {table.path}' if table.path else ''}: {shape} numbers from {low:.3f} to {high:.3f}"


@app.command(name="mask", help_epilogue="Example:\n  groundup interpret mask window --rows 5,8 --window 3 --out m.png")
def mask_(
    kind: Literal["causal", "both", "window"],
    /,
    *,
    rows: tuple[str, ...] = ("12",),
    window: int = 4,
    out: Path | None = None,
    common: Common = Common(),
) -> None:
    """Show which tokens may look at which.

    Parameters
    ----------
    kind
        causal (back alone), both (ways), or window (back, but not far).
    rows
        How many tokens; several numbers are rows that are packed into one call.
    window
        How many tokens a window reaches, the looking one among them.
    out
        Draw it into this .png file.
    """
    from groundup.interpret import pictures, tables

    _checked(out)
    try:
        lengths = [int(word) for word in words(rows)]
    except ValueError:
        raise UsageError(f"--rows takes numbers of tokens, like 5,8, not {','.join(rows)}") from None
    if sum(lengths) > 2048:
        raise UsageError(f"{sum(lengths):,} tokens are too many to look at: take 2,048 or fewer")
    sees = tables.mask(kind, lengths, window=window)
    if out is not None:
        pictures.mask(sees, out, title=f"Who sees whom: {kind}")
    text = "\n".join(" ".join("x" if one else "." for one in line) for line in sees.tolist())
    result({"sees": sees.int().tolist() if common.json else [], "out": out}, text, as_json=common.json)
    _drawn(out)


@app.command(
    name="words", help_epilogue='Example:\n  groundup interpret words all-minilm-l6-v2 "king queen" --top 6 --out w.png'
)
def words_(
    model: str,
    text: str | None = None,
    /,
    *,
    vectors: Path | None = None,
    top: int = 5,
    out: Path | None = None,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Show which words vectors lie next to: those of a soft prompt in use, or the embeddings of a text's tokens.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder.
    text
        Show the neighbours of each of its tokens.
    vectors
        Show those of these vectors instead: a folder with a soft prompt in PEFT's layout, or a .npy file [P, D].
    top
        How many words for each.
    out
        Draw them into this .png file.
    """
    from groundup.interpret import pictures
    from groundup.interpret.vectors import nearest_words, of_file, of_prompt, of_text

    _checked(out)
    if text is not None and vectors is not None:
        raise UsageError("a text and --vectors exclude each other: give one of them")
    lm = open_model(model, which, place)
    if vectors is not None:
        names, given = of_file(vectors)
    else:
        names, given = of_prompt(lm) if text is None else of_text(lm, text)
    found = nearest_words(given, lm, top=top)
    if out is not None:
        pictures.nearest_words(found, out, names=names)
    wide = max(len(_token(name)) for name in names)
    lines = []
    for name, near in zip(names, found, strict=True):
        lines.append(f"{_token(name):{wide}}  cosine  {'  '.join(f'{_token(w)} {c:.3f}' for w, c in near.cosine)}")
        lines.append(f"{'':{wide}}  L2      {'  '.join(f'{_token(w)} {d:.3f}' for w, d in near.distance)}")
    data = [{"name": n, "cosine": near.cosine, "distance": near.distance} for n, near in zip(names, found, strict=True)]
    result({"vectors": data, "out": out}, "\n".join(lines), as_json=common.json)
    _drawn(out)


def _token(piece: str) -> str:
    """A token so that its spaces and line breaks are seen."""
    return repr(piece)[1:-1] if piece.strip() == piece and piece else repr(piece)
