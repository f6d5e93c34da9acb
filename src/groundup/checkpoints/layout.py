"""Which files hold a model's weights: one, or the shards that an index names. Names in an index are not trusted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from groundup.checkpoints.source import UNSAFE, shown
from groundup.core.errors import GroundupError
from groundup.core.files import explained, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARDS = 10_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def locate(place: Path) -> dict[Path, set[str] | None]:
    """The files behind a .safetensors file, an index or a folder, each with the tensors that an index places there.

    With both, a folder's model.safetensors counts and not its index, as in transformers. GroundupError: nothing is
    there, or an index is broken or leads out of its folder.
    """
    with explained(place):
        folder = place.is_dir()
    if not folder:
        return _shards(place) if place.name.endswith(".index.json") else {place: None}
    if present(place / SINGLE):
        return {_inside(place, SINGLE): None}
    if present(place / INDEX):
        return _shards(_inside(place, INDEX))
    raise GroundupError(_nothing_in(place))


def present(path: Path) -> bool:
    """Whether something is there, be it a link that leads nowhere."""
    return path.is_symlink() or path.exists()


def some(names: Iterable[str]) -> str:
    """The first of these names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 1:,} more" if len(ordered) > 1 else ""
    return f"{shown(ordered[0])}{more}"


def _shards(index: Path) -> dict[Path, set[str] | None]:
    content = read_json(index)
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise GroundupError(f'{index} is no index: it must map each tensor to its file under "weight_map"')
    files = sorted(set(placed.values()))
    if len(files) > MAX_SHARDS:
        raise GroundupError(f"{index} names {len(files):,} files; at most {MAX_SHARDS:,} are read")
    expected: dict[str, set[str]] = {file: set() for file in files}
    for name, file in placed.items():
        expected[file].add(name)
    return {_inside(index.parent, file): expected[file] for file in files}


def _inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`: a plain name, and not a link out of it.

    In the cache of Hugging Face a snapshot's files are links into ../../blobs; there, links within the model's own
    folder are followed.
    """
    plain = name not in ("", ".", "..") and not any(c in "/\\:" or ord(c) < 32 for c in name)
    if not plain or not name.endswith((".safetensors", ".json")):
        raise GroundupError(f"{folder}: {shown(name)} is not the plain name of a .safetensors file in this folder")
    path = folder / name
    try:
        target, root = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links, before Python 3.13
        raise GroundupError(f"{path} is missing; download or copy the model again") from error
    for above in root.parents:
        if above.name.startswith("models--") and root.relative_to(above).parts[0] == "snapshots":
            root = above
            break
    if not target.is_relative_to(root):
        raise GroundupError(f"{path} is a link that leads out of its folder; put the file itself there")
    return path


def _nothing_in(folder: Path) -> str:
    with explained(folder):
        names = sorted(path.name for path in folder.iterdir())
    if other := [name for name in names if name.endswith(".safetensors")]:
        return f"{folder} has neither {SINGLE} nor {INDEX}, but {some(other)}; name the file itself to read it"
    if unsafe := [name for name in names if name.endswith(PICKLES)]:
        return f"{folder} has its weights as {some(unsafe)} only: {UNSAFE}"
    return f"{folder} has no weights: neither {SINGLE} nor {INDEX}"
