"""The rules of the house, read from the code itself: layers, safety, size, map."""

import ast
import graphlib
import itertools
import re
from pathlib import Path

import pytest

from kineme.network import NETWORKS, load_specs
from kineme.spec.fields import settings_by_key

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "kineme"
MODULES = sorted(SOURCE.rglob("*.py"))
LAYERS = (  # from the ground up; what shares a line may not import each other
    ("errors",),
    ("files", "concealment", "processes", "signals"),
    ("spec",),
    ("data",),
    ("network",),
    ("action_recognition", "pose_classification", "engine"),
    ("skills",),
    ("report",),
    ("actions",),
    ("people",),
    ("jobs",),
    ("automl",),
    ("figures",),
    ("synthetic",),
    ("rendering",),
    ("scenes",),
    ("demo",),
    ("migrate",),
    ("console", "usage"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import of kineme in a file, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "kineme":
                names = [f"kineme.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] == "kineme"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        assert imports_of(path) == []
        return
    for line, name in imports_of(path):
        other = room_of(name)
        if other in ("", "__version__", own):
            continue
        assert LEVEL[other] < LEVEL[own], f"{path.name}:{line} imports {name}"


def uses_of(path: Path) -> set[str]:
    """The modules that a module needs when it runs, functions included; not for types alone."""
    found, todo = set(), [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else str(node.module) for name in names}
    return found & set(NAMES)


NAMES = {
    ".".join(("kineme", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in MODULES
}


def test_no_modules_import_each_other_in_a_circle():
    uses = {name: uses_of(path) - {name} for name, path in NAMES.items()}
    try:
        graphlib.TopologicalSorter(uses).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_circle_test_itself_sees_what_is_used(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from kineme import files\nimport kineme.errors\n"
        "if TYPE_CHECKING:\n    from kineme.cli import main\n"
        "def later():\n    from kineme.spec.load import load_spec\n"
    )
    assert uses_of(path) == {"kineme.files", "kineme.errors", "kineme.spec.load"}


FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open",
    "os.system", "os.popen", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "tempfile.mktemp",
}  # fmt: skip
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "torchvision",
}
FORBIDDEN_KEYWORDS = {("allow_pickle", True), ("shell", True), ("weights_only", False)}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def dangers_of(tree: ast.AST) -> list[str]:
    """Everything in a syntax tree that could run what a file says."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in FORBIDDEN_MODULES
        ):
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in FORBIDDEN_CALLS or name.endswith(".extractall"):
                found.append(name)
            keywords = {k.arg: k.value for k in node.keywords}
            found += [
                f"{name}({key}={value})"
                for key, value in FORBIDDEN_KEYWORDS
                if isinstance(keywords.get(key), ast.Constant) and keywords[key].value is value
            ]
            if name == "torch.load":
                asked = keywords.get("weights_only")
                if not (isinstance(asked, ast.Constant) and asked.value is True):
                    found.append("torch.load without weights_only=True")
            if name in ("np.load", "numpy.load"):
                found.append(name)  # the data layer reads .npy itself
        elif isinstance(node, ast.Assert):
            found.append("assert")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_runs_what_a_file_says(path):
    assert dangers_of(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "eval('1')", "torch.load('x')",
        "torch.load('x', weights_only=False)", "np.load('x', allow_pickle=True)", "yaml.load(f)",
        "tar.extractall('.')", "subprocess.run('ls', shell=True)", "assert x",
    ],
)  # fmt: skip
def test_the_danger_test_itself_sees_danger(code):
    assert dangers_of(ast.parse(code))


MAY_WRITE = {
    "files.py",  # everything else goes through it
    "lease.py",  # a lock lives in its own open file
}


def is_buffered(call: ast.Call) -> bool:
    """Whether np.save or torch.save writes to an open file rather than to a path."""
    target = call.args[1] if dotted(call.func) == "torch.save" else call.args[0]
    return isinstance(target, ast.Name) and target.id in ("file", "buffer")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_final_names_are_written_atomically(path):
    if path.name in MAY_WRITE:
        return
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        saves = ("np.save", "np.savez", "numpy.save", "torch.save")
        if (name in saves and not is_buffered(node)) or name.split(".")[-1] in (
            "write_text", "write_bytes",
        ):  # fmt: skip
            found.append((node.lineno, name))
        if name == "open" and len(node.args) > 1:
            mode = node.args[1]
            if isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax"):
                found.append((node.lineno, f"open(..., {mode.value!r})"))
    allowed = ("files.write_text", "write_text")
    assert [(line, name) for line, name in found if name not in allowed] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_short_and_say_what_they_are_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_the_readme_maps_every_module():
    readme = (ROOT / "README.md").read_text()
    mapped = set(re.findall(r"^\| `([\w/]+\.py)` \|", readme, flags=re.M))
    modules = {str(p.relative_to(SOURCE)) for p in MODULES if p.name != "__init__.py"}
    packages = {
        str(p.relative_to(SOURCE))
        for p in MODULES
        if p.name == "__init__.py" and p.read_text().strip()
    }
    assert modules <= mapped, f"not in README: {sorted(modules - mapped)}"
    assert mapped <= modules | packages, f"gone: {sorted(mapped - modules - packages)}"


def test_the_two_commands_of_the_readme_are_those_that_ci_runs():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert "pip install -c constraints.txt -e . && kineme demo" in readme
    assert "pip install -c constraints.txt -e '.[dev]' && pytest" in readme
    for step in (
        "-c constraints.txt -e .",
        "kineme demo",
        "-c constraints.txt -e '.[dev]'",
        "pytest",
    ):
        assert step in ci


def test_constraints_pin_every_declared_dependency():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = itertools.chain(project["dependencies"], *extras.values())
    names = {re.split(r"[<>=!~\[]", line)[0].strip().lower().replace("_", "-") for line in declared}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert names - {"kineme", "wandb"} <= pinned  # wandb: for those who have an account
    assert "torch==2.13.0" in lines
    assert not {name for name in pinned if name.startswith("nvidia") or name == "torchvision"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_that_are_pointed_to_are_there(path):
    """`Leaves out: ... (name.py)`: beside the file, below the packages it is in, or in a room."""
    packages = [folder for folder in path.parents if folder.is_relative_to(SOURCE)]
    for name in re.findall(r"(?<![\w./{}*])((?:\w+/)*\w+\.py)\b", path.read_text()):
        found = [*(f / name for f in packages if (f / name).exists()), *SOURCE.glob(f"*/{name}")]
        assert found, f"{path.name} points to {name}"


SHARED = ("engine", "actions", "data", "report", "cli.py")
# What only one network meets, or is on the lookout for in any spec; nobody is told to set the rest.
OF_ONE_NETWORK = {
    "actions/k_fold.py": {
        "dataset.num_workers", "dataset.workers", "dataset.cache_dir", "train.distill.teacher",
        "evaluate.occlusion",
    },
    "cli.py": {"inference.annotate"},
    "data/arrays.py": {"model.graph_layout", "model.input_channels"},
    "data/flow/__init__.py": {"dataset.flow_method"},
    "data/labels.py": {"dataset.num_classes"},  # of skeletons: videos have names alone
    "data/scan.py": {"dataset.nan_policy"},
    "engine/checkpoint.py": {"dataset.num_classes"},
    "engine/stepping.py": {"train.cuda_graph"},  # there is a recorded step with it alone
}  # fmt: skip


def keys_of(name: str) -> set[str]:
    """Every setting of a network, and the blocks they are in."""
    keys = set().union(*(settings_by_key(spec) for spec in load_specs(name).values()))
    return keys | {key.rsplit(".", depth)[0] for key in keys for depth in range(key.count("."))}


def test_settings_that_shared_layers_name_are_those_of_every_network():
    keys = {name: keys_of(name) for name in NETWORKS}
    sections = "|".join({key.split(".")[0] for key in set.union(*keys.values()) if "." in key})
    word = re.compile(rf"(?<![\w./])(?:{sections})(?:\.[a-z_]\w*)+")
    found = {}
    for path in MODULES:
        name = str(path.relative_to(SOURCE))
        if not name.startswith(SHARED):
            continue
        for text in texts_of(path):
            some = {key for key in word.findall(text) if any(key in of for of in keys.values())}
            if one_sided := {key for key in some if not all(key in of for of in keys.values())}:
                found.setdefault(name, set()).update(one_sided)
    assert found == OF_ONE_NETWORK


def texts_of(path: Path) -> list[str]:
    """The strings of a module but for its docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, documented)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and text not in docs]
