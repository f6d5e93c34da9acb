"""The rules of the house that no other tool checks: the cost of an import, what is unreachable, what is documented."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import groundup

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "groundup"
MODULES = sorted(SOURCE.rglob("*.py"))

LAZY_TOPS = {"__init__.py", "models/__init__.py", "data/__init__.py"}
ORACLES = {"transformers", "peft", "accelerate", "datasets"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "runpy"}
UNSAFE_CALLS = {
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub.load",
    "os.system",
    "eval",
    "exec",
    "__import__",
}


def name_of(node: ast.AST) -> str:
    """`torch.load` for the expression torch.load, "" for anything that is no plain dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := name_of(node.value)):
        return f"{left}.{node.attr}"
    return ""


def offences(tree: ast.AST) -> list[str]:
    """What a module may not do, with the line on which it does it."""
    found = []
    for node in ast.walk(tree):
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in imported:
            if name.split(".")[0] in ORACLES | UNSAFE_MODULES or name in UNSAFE_CALLS:
                found.append(f"line {node.lineno}: imports {name}")
        if isinstance(node, ast.Call):
            if name_of(node.func) in UNSAFE_CALLS:
                found.append(f"line {node.lineno}: calls {name_of(node.func)}")
            for keyword in node.keywords:
                fact = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in {"allow_pickle", "shell", "trust_remote_code"} and fact is not False:
                    found.append(f"line {node.lineno}: passes {keyword.arg}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_pickle_no_oracle_no_shell(path: Path) -> None:
    assert offences(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import transformers.models",
        "from peft import LoraConfig",
        "from torch import load",
        "x = torch.load('f')",
        "np.load('f', allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "eval('1')",
    ],
)
def test_the_check_above_sees_an_offence(line: str) -> None:
    assert offences(ast.parse(line))


def test_our_own_rooms_are_no_offence() -> None:
    code = "from groundup.peft.lora import LoRA\nmodel.load('x')\nnp.load('f', allow_pickle=False)"
    assert offences(ast.parse(code)) == []


def test_importing_groundup_loads_no_other_library() -> None:
    heavy = ["torch", "transformers", "peft", "pydantic", "numpy", "jaxtyping", "rich", "cyclopts", "tokenizers"]
    code = f"import sys, groundup, groundup.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert done.stdout.strip() == "[]"


def test_init_files_are_empty_but_the_lazy_ones() -> None:
    inits = [path for path in MODULES if path.name == "__init__.py"]
    assert len(inits) > 5
    written = {str(path.relative_to(SOURCE)) for path in inits if path.read_text(encoding="utf-8").strip()}
    assert written <= LAZY_TOPS


@pytest.mark.parametrize("name", groundup.__all__)
def test_public_names_are_there_and_documented(name: str) -> None:
    found = getattr(groundup, name)
    assert (found.__doc__ or "").strip(), f"groundup.{name} has no docstring"
    assert name in dir(groundup)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="groundup.*lode"):
        groundup.lode  # noqa: B018


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(SOURCE))
        for path in MODULES
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def shell_lines(markdown: str) -> list[str]:
    """The commands of a page's shell blocks, without prompts, comments and continuation lines."""
    blocks = re.findall(r"```(?:sh|bash|console|shell)\n(.*?)```", markdown, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ").split("  #")[0].strip() for line in lines if line.strip()]


def test_the_commands_of_the_readme_exist() -> None:
    from groundup.cli.main import VERBS

    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = shell_lines((ROOT / "README.md").read_text(encoding="utf-8"))
    assert any(line.split()[0] == "make" for line in lines)
    for line in lines:
        words = line.split()
        if words[0] == "make":
            named = [word for word in words[1:] if "=" not in word]
            assert set(named) <= targets, line
        elif Path(words[0]).name == "groundup":
            assert words[1] in VERBS or words[1].startswith("-"), line


def test_constraints_pin_every_dependency_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = project["dependencies"] + [line for extra in extras for line in extra]
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[name] = version
    for line in wanted:
        name = re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-")
        assert name in pinned, f"{name} is not in constraints.txt"
        if "==" in line:
            assert line.split("==")[1] == pinned[name]
    assert all("+" not in version for version in pinned.values())
