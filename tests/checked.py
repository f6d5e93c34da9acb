"""What the import hook puts on every function of groundup while the tests run.

beartype checks the types of each call. Where an array's shape is annotated, jaxtyping also holds the names of its sizes
against each other; its bookkeeping costs more than most functions do, so the others go without it.
"""

import functools
import re
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

typed = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as everywhere in Python's typing
shaped = jaxtyping.jaxtyped
ARRAY = re.compile(r"\b(Float|Int|UInt8|Bool|Shaped|Codes)\[")


def checked(thing: Any) -> Any:
    """A function with its calls checked; a class as it is, for its methods are."""
    if isinstance(thing, type):
        return thing
    if isinstance(thing, (staticmethod, classmethod)):
        return type(thing)(checked(thing.__func__))
    if isinstance(thing, property):
        return property(*(f and checked(f) for f in (thing.fget, thing.fset, thing.fdel)))
    written = dict(thing.__annotations__)
    thing.__annotations__ = meant = {name: _known(hint, thing.__globals__) for name, hint in written.items()}
    known = typed(thing)
    thing.__annotations__ = known.__annotations__ = written
    if not ARRAY.search(" ".join(map(str, meant.values()))):
        return known

    @functools.wraps(known)
    def sized(*arguments: Any, **named: Any) -> Any:
        with shaped("context"):
            return known(*arguments, **named)

    return sized


def _known(hint: Any, names: dict[str, Any]) -> Any:
    """What a written annotation means; anything, where it names what is there for type checkers alone."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except Exception:
        return Any


def install(package: str) -> None:
    """Check the package's calls from its next import on."""
    jaxtyping.install_import_hook(package, "checked.typed")
    jaxtyping.jaxtyped = lambda typechecker: checked  # what the hook writes above each function
