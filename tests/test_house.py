"""Rules of the house that no linter knows."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("internal_rl", "experiments", "configs", "benchmarks", "examples")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
MOST_POSITIONAL = 5


def public_functions(tree):
    """Functions and methods whose name, and that of their class, does not begin with `_`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node


def test_public_functions_take_five_positional_arguments_at_most():
    found = []
    for path in FILES:
        for name, function in public_functions(ast.parse(path.read_text())):
            arguments = [x.arg for x in (*function.args.posonlyargs, *function.args.args)]
            count = len([x for x in arguments if x not in ("self", "cls")])
            if count > MOST_POSITIONAL:
                found.append(f"{path.relative_to(ROOT)}: {name} takes {count}")
    assert not found


def test_no_code_is_hidden_from_the_formatter():
    marker = "fmt: " + "skip"
    assert not [path for path in FILES if marker in path.read_text()]


def test_nothing_asks_for_the_class_of_a_world():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                asked = ast.unparse(node.args[1])
                if "World" in asked and "Config" not in asked:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize("layer", ["script", "package"])
def test_scripts_import_no_script_and_modules_define_no_flags(layer):
    if layer == "script":
        for path in (ROOT / "experiments").glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [getattr(node, "module", None) or ""]
                names += [alias.name for alias in getattr(node, "names", ()) if alias.name]
                assert not any(name.split(".")[0] == "experiments" for name in names), path
        return
    program = (
        "import absl.flags, internal_rl as irl\n"
        "before = set(absl.flags.FLAGS)\n"
        "import brax, chex, orbax.checkpoint, grain\n"
        "others = set(absl.flags.FLAGS)\n"
        "[getattr(irl, name) for name in irl.__all__]\n"
        "assert set(absl.flags.FLAGS) == others, set(absl.flags.FLAGS) - others\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
