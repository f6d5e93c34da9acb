"""Runs a chat template that came with a model file, as a stranger's program: no way out, and limits on what it uses.

jinja2's immutable sandbox closes the way to Python's internals. It does not bound work, so a `Meter` does. Operators,
calls, filters and output pass through it where jinja2 lets them be intercepted; for the rest (loops, comparisons, new
lists, slices, `~`) the template's syntax tree is rewritten before it is compiled:

    {% for m in messages %}     ->   {% for m in messages | each %}
    {{ [a, a] ~ b[1:] }}        ->   {{ [([a, a] | keep), (b[1:] | keep)] | join }}
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS as FILTERS_OF_JINJA
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS as TESTS_OF_JINJA
from jinja2.utils import Namespace, _PassArg
from jinja2.visitor import NodeTransformer

from groundup.core.errors import GroundupError, UsageError
from groundup.inputs.meter import Limit, Meter, words

SOURCE_CHARACTERS = 60_000
SOURCE_NODES = 10_000  # of the syntax tree; the longest public templates have a few thousand

ALLOWED_FILTERS = words(
    "abs attr capitalize count d default dictsort e escape first float format groupby indent int items join last "
    "length list lower map max min reject rejectattr replace reverse round safe select selectattr sort string sum "
    "title tojson trim truncate unique upper wordcount"
)
ALLOWED_METHODS: dict[type, frozenset[str]] = {
    str: words(
        "capitalize casefold center count endswith find index isalnum isalpha isascii isdecimal isdigit islower "
        "isnumeric isspace isupper join ljust lower lstrip partition removeprefix removesuffix replace rfind rindex "
        "rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill"
    ),
    dict: words("copy get items keys values"),
    list: words("copy count index"),
    tuple: words("count index"),
}
FORBIDDEN_NODES = (
    nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.EvalContextModifier,
    nodes.ScopedEvalContextModifier,
)  # fmt: skip


class Refusal(jinja2.TemplateError):
    """The template itself called `raise_exception`: it does not take this conversation."""


def run(source: str, variables: Mapping[str, Any], now: datetime | None = None) -> str:
    """The text that the template `source` makes of `variables`, which must be plain JSON values.

    `now` is the moment that `strftime_now` tells (None: the present). A template that refuses the conversation gives
    a UsageError with its own words; one that fails, or exceeds a limit, a GroundupError of one line.
    """
    try:
        if len(source) > SOURCE_CHARACTERS:
            raise Limit(f"it has {len(source)} characters, {SOURCE_CHARACTERS} is the limit")
        code = _compiled(source)
        meter = Meter(given=sum(map(Meter().size, variables.values())))
        sandbox = Sandbox(meter, now)
        template = jinja2.Template.from_code(sandbox, code, sandbox.globals)
        pieces, length = [], 0
        for piece in template.root_render_func(template.new_context(dict(variables))):
            length += len(piece)
            meter.tick()
            meter.room(length)
            pieces.append(piece)
        return "".join(pieces)
    except Refusal as error:
        raise UsageError(f"The chat template refuses this conversation: {_one_line(error)}") from None
    except Exception as error:  # whatever a stranger's program may raise: RecursionError, OverflowError, ...
        reason = _one_line(error) or type(error).__name__
        raise GroundupError(f"The chat template failed: {reason}. Use the model with another template.") from None


@functools.lru_cache(maxsize=32)
def _compiled(source: str) -> types.CodeType:
    return Sandbox(Meter(), None).compile(source)


@functools.lru_cache(maxsize=32)
def constants(source: str) -> frozenset[str]:
    """The texts that a template writes or compares with, as far as they stand in its expressions: `'</think>'`."""
    tree = Sandbox(Meter(), None).parse(source)
    return frozenset(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error)[:1000].split())
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text).rstrip(".")
    if isinstance(error, jinja2.TemplateSyntaxError):
        text = f"line {error.lineno}: {text}"
    return text if len(text) <= 300 else text[:300] + "..."


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering, which `meter` counts. Syntax and functions are those of transformers."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, meter: Meter, now: datetime | None):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            optimized=False,  # nothing is computed while compiling
            finalize=_output,
        )
        self.meter = meter
        self.filters, self.tests = FILTERS, TESTS  # type: ignore[assignment]
        self.concat = meter.join  # type: ignore[method-assign]
        self.globals = {
            "range": meter.range, "namespace": _Namespace, "dict": _dict, "raise_exception": _raise_exception,
            "strftime_now": lambda form: (now or datetime.now()).strftime(str(form)[:100]),
        }  # fmt: skip

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        if (count := sum(1 for _ in tree.find_all(nodes.Node))) > SOURCE_NODES:
            raise Limit(f"it has {count} parts, {SOURCE_NODES} is the limit")
        for node in tree.find_all(FORBIDDEN_NODES):
            raise Limit(f"line {node.lineno}: {type(node).__name__} has no place in a chat template")
        return _Guards().visit(tree)

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        raise Limit(f"it reaches for {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.meter.check_operator(operator, left, right)
        return self.meter.keep(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # jinja2's own odd names
        meter = __self.meter
        meter.deeper()
        try:
            if isinstance(__obj, LoopContext):  # a recursive loop goes down
                args = (_Each(args[0], meter), *args[1:])
            else:
                given = [arg for arg in (*args, *kwargs.values()) if not isinstance(arg, Namespace)]
                meter.check_call(getattr(__obj, "__name__", ""), ["", *given])
            return meter.keep(super().call(__context, __self.allowed(__obj), *args, **kwargs))
        finally:
            meter.depth -= 1

    def allowed(self, function: Any) -> Any:
        """`function`, or our own form of it, if a chat template may call it."""
        if isinstance(function, (types.BuiltinMethodType, types.MethodType)):
            owner, name = function.__self__, function.__name__
            if isinstance(owner, str) and name == "replace":
                return functools.partial(self.meter.replace, owner)
            if isinstance(owner, str) and name == "join":
                return functools.partial(self.meter.join, separator=owner)
            if isinstance(owner, LoopContext):
                return function
            if any(isinstance(owner, kind) and name in names for kind, names in ALLOWED_METHODS.items()):
                return function
        if isinstance(function, (Macro, LoopContext, jinja2.Undefined, _Format)) or function in self.globals.values():
            return function
        raise Limit(f"a chat template may not call {getattr(function, '__name__', type(function).__name__)}")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatted = super().wrap_str_format(value)
        return None if formatted is None else _Format(self.meter, value.__self__, formatted)


class _Each:
    """What a `for` runs over: the items, with a tick at each."""

    def __init__(self, items: Any, meter: Meter):
        self._items, self._meter = items, meter

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._meter.tick()
            yield item

    def __len__(self) -> int:
        return len(self._items)


class _Format:
    """A text's `format` method, after a look at the widths in it."""

    def __init__(self, meter: Meter, form: str, formatted: Callable[..., str]):
        self._meter, self._form, self._formatted = meter, form, formatted

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        self._meter.check_format(self._form, [*args, *kwargs.values()])
        return self._formatted(*args, **kwargs)


class _Namespace(Namespace):
    """jinja2's namespace, without attributes that Python itself would look for."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, given = args[0], dict(*args[1:], **kwargs)
        Namespace.__init__(self, {})
        for name, value in given.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise Limit(f"a namespace has no attribute {name!r}")
        Namespace.__setitem__(self, name, value)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: Any = "") -> None:
    raise Refusal(str(message)[:1000])


@jinja2.pass_context
def _output(context: Context, value: Any) -> str:
    return _meter(context).text(value)


def _meter(context: Context) -> Meter:
    assert isinstance(context.environment, Sandbox)
    return context.environment.meter


# --- filters and tests: jinja2's, each asking the meter first; ours, where theirs would make large things meanwhile ---


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a filter or test that asks the meter; it still gets the context or such, if it is marked to."""
    wants = getattr(function, "jinja_pass_arg", None)

    @jinja2.pass_context  # also keeps jinja2 from calling it while compiling
    def guarded(context: Context, /, *args: Any, **kwargs: Any) -> Any:
        meter, sandbox = _meter(context), context.environment
        meter.deeper()
        try:
            meter.check_call(name, [*args, *kwargs.values()])
            if wants is not None:
                first = {_PassArg.context: context, _PassArg.eval_context: context.eval_ctx}.get(wants, sandbox)
                args = (first, *args)
            return meter.keep(function(*args, **kwargs))
        finally:
            meter.depth -= 1

    return guarded


def _attribute(sandbox: Sandbox, values: Any, attribute: str | int | None) -> Any:
    return values if attribute is None else map(make_attrgetter(sandbox, attribute), values)


@jinja2.pass_environment
def _join(sandbox: Sandbox, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    return sandbox.meter.join(_attribute(sandbox, value, attribute), sandbox.meter.text(d))


@jinja2.pass_environment
def _sum(sandbox: Sandbox, value: Any, attribute: str | int | None = None, start: float = 0) -> Any:
    return sandbox.meter.sum(_attribute(sandbox, value, attribute), start)


@jinja2.pass_environment
def _replace(sandbox: Sandbox, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text = sandbox.meter.text
    return sandbox.meter.replace(text(value), text(old), text(new), count)


@jinja2.pass_environment
def _trim(sandbox: Sandbox, value: Any, chars: str | None = None) -> str:
    return sandbox.meter.text(value).strip(chars)


@jinja2.pass_environment
def _text(sandbox: Sandbox, value: Any) -> str:
    return sandbox.meter.text(value)


@jinja2.pass_environment
def _json(
    sandbox: Sandbox, value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:  # fmt: skip
    """As transformers has it: jinja2's own would escape `<` and `>`, which matters to a chat template."""
    return sandbox.meter.json(value, ensure_ascii, indent, separators, sort_keys)


OWN: dict[str, Callable[..., Any]] = {
    "join": _join, "replace": _replace, "safe": _text, "string": _text, "sum": _sum, "tojson": _json, "trim": _trim,
}  # fmt: skip
FILTERS: dict[str, Callable[..., Any]] = {
    name: _guarded(name, OWN.get(name) or FILTERS_OF_JINJA[name]) for name in sorted(ALLOWED_FILTERS)
}
TESTS: dict[str, Callable[..., Any]] = {name: _guarded(name, function) for name, function in TESTS_OF_JINJA.items()}  # type: ignore[arg-type]

# For the syntax tree; a template cannot name them, as there is a space in front.
FILTERS[" each"] = jinja2.pass_context(lambda context, items: _Each(items, _meter(context)))
FILTERS[" keep"] = jinja2.pass_context(lambda context, value: _meter(context).keep(value))
FILTERS[" join"] = jinja2.pass_context(lambda context, values: _meter(context).join(values))
FILTERS[" tick"] = jinja2.pass_context(lambda context, value: _meter(context).ticked(value))


class _Guards(NodeTransformer):
    """Rewrites the syntax tree so that what jinja2 compiles to plain Python passes through the meter as well."""

    def guard(self, node: nodes.Node, name: str) -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self.guard(node.iter, " each")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self.guard(nodes.List(node.nodes, lineno=node.lineno), " join")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self.guard(node.expr, " tick")
        return node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self.guard(node, " keep")

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self.guard(node, " keep") if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self.guard(node, " keep") if isinstance(node.arg, nodes.Slice) else node


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks what an assistant wrote: here its body only."""

    tags = frozenset(["generation"])  # type: ignore[assignment]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)
