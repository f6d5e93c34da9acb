"""`groundup combine`: the weighted sum of adapters of one kind, as an adapter of its own."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.options import Common, Which, refuse_existing, words
from groundup.cli.output import result
from groundup.core.errors import UsageError

EXAMPLE = (
    "groundup combine smollm2-135m-instruct --adapter runs/news --adapter runs/quotes --weights 0.7,0.3 --out both"
)


def run(
    model: str,
    /,
    *,
    out: Path,
    weights: tuple[str, ...] = (),
    rank: int | None = None,
    which: Which = Which(),
    common: Common = Common(),
) -> None:
    """Sum adapters of one kind with weights, and write the sum as an adapter.

    LoRA's products are summed, IA³'s factors, soft prompts' vectors. To use adapters together without a sum, of
    different kinds too, give --adapter several times to any verb.

    Parameters
    ----------
    model
        A starter, a hub id, a folder or a .gguf file; the adapters come by --adapter, two or more.
    out
        The folder to write; it must not exist yet.
    weights
        A number for each adapter, in their order, with commas between. Left out: equal shares.
    rank
        Of LoRA: the nearest product of this rank. Left out, the sum is exact, at the sum of the ranks.
    """
    refuse_existing(out)
    folders = which.adapter
    given = words(weights)
    if len(folders) < 2 or len(given) not in (0, len(folders)):
        raise UsageError(f"--adapter was given {len(folders)} times and --weights {len(given)}: give 2 or more of both")
    try:
        shares = [float(w) for w in given] or [1 / len(folders)] * len(folders)
    except ValueError:
        raise UsageError(f"--weights {','.join(given)}: give numbers, such as 0.7,0.3") from None
    from groundup import api
    from groundup.nn.step import stacked

    lm = api.load(model, adapter=folders, revision=which.revision)
    both = api.combine(lm, dict(zip(stacked(lm.adapter), shares, strict=True)), rank=rank)
    api.save(both, out)
    said = " + ".join(f"{share:g} {folder}" for share, folder in zip(shares, folders, strict=True))
    told = {"out": str(out), "weights": dict(zip(map(str, folders), shares, strict=True))}
    result(told, f"{said}; written to {out}\n{both.method.described(both.network, 'combined')}", as_json=common.json)
