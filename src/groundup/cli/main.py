"""`groundup VERB MODEL --flags`: the verbs, and how everything that goes wrong is said.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a gate said no, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

import groundup
from groundup.cli import options
from groundup.cli.output import note
from groundup.core.errors import GroundupError

VERBS = (
    "download",
    "list",
    "info",
    "doctor",
    "generate",
    "chat",
    "fill",
    "classify",
    "embed",
    "estimate",
    "finetune",
    "compare",
    "pretrain",
    "evaluate",
    "merge",
    "combine",
    "quantize",
    "convert",
    "save",
    "data",
    "interpret",
)

HELP = """Foundation models from the ground up: load, tune, score, answer.

A MODEL is a starter (`groundup list`), a hub id, a folder, a .gguf file, or a run's folder."""

EPILOGUE = """Try: groundup generate smollm2-135m-instruct "The capital of France is"

--debug with any verb shows the traceback of an error."""


def make_app(words: Sequence[str] = ()) -> App:
    """The command line for these words: each verb is the function `run` (or the App `app`) of the module of its name."""
    app = App(
        name="groundup",
        help=HELP,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=groundup.__version__,
        config=options.from_config_file,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=(), show_default=_default),
    )
    for place, verb in enumerate(VERBS):
        if verb not in words:  # a verb's module is loaded for that verb alone: some load PyTorch
            app.command(App(name=verb, help=_summary(verb), sort_key=place))
            continue
        module = import_module(f"groundup.cli.{verb}")
        if hasattr(module, "app"):
            module.app.sort_key = place
            app.command(module.app, name=verb)
        else:
            app.command(module.run, name=verb, sort_key=place, help_epilogue=f"Example:\n  {module.EXAMPLE}")
    return app


def _summary(verb: str) -> str:
    """What the list of verbs says of one: the first paragraph of its function's docstring, or the help of its App."""
    tree = ast.parse(Path(__file__).with_name(f"{verb}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "run":
            return (ast.get_docstring(node) or "").split("\n\n")[0]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == "app":
            return next(str(ast.literal_eval(k.value)) for k in node.value.keywords if k.arg == "help")
    return ""


def _default(value: object) -> str | None:
    """What the help shows of a default: nothing where the flag simply is not given."""
    return None if isinstance(value, bool) or value in (None, ()) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Never raises but on a programming error with --debug."""
    words = list(sys.argv[1:] if argv is None else argv)
    flags = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in flags
    words = [word for word in flags if word != "--debug"] + words[len(flags) :]
    options.typed[:] = words
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character shows its number
    try:
        code = make_app(words)(
            words,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _fail("stopped", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has gone; say no more
        return 1
    except CycloptsError as error:
        said = str(error)
        if isinstance(error, UnusedCliTokensError):
            said = f"nothing here takes {', '.join(map(repr, error.unused_tokens or ()))}: a text of several words goes in quotes"
        return _fail(f"{said}\nSee: {' '.join(['groundup', *(error.command_chain or ())])} --help", 2, debug)
    except GroundupError as error:
        return _fail(str(error), error.exit_code, debug)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 1, debug)
    except MemoryError:
        return _fail("out of memory: take fewer tokens or rows at once", 1, debug)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return _fail(
            f"unexpected {type(error).__name__}: {text}\nRun it again with --debug for the traceback", 1, debug
        )


def _fail(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    note(f"groundup: {text}")
    return code
