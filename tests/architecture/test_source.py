"""What no source file of the product may contain, read from its syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = [path for room in ("rlhf", "launch", "serve") for path in sorted((ROOT / room).rglob("*.py"))]
LIBRARY = [path for path in PRODUCT if not path.is_relative_to(ROOT / "launch")]
TREES = {path: ast.parse(path.read_text(), str(path)) for path in PRODUCT}

MAX_FUNCTION_LINES = 50
MAX_FILE_LINES = 300

# Reading any of these runs code that the bytes name. Checkpoints are safetensors and JSON.
PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Rewards run in child processes: requests go down as pickles that the parent wrote, answers come back as JSON.
MAY_WRITE_PICKLES = {"rlhf/rewards/child.py", "rlhf/rewards/processes.py", "rlhf/rewards/worker.py"}
MAY_READ_PICKLES = {"rlhf/rewards/worker.py"}


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def nodes(*kinds: type[ast.AST], of: list[Path] = PRODUCT) -> Iterator[tuple[Path, ast.AST]]:
    for path in of:
        yield from ((path, node) for node in ast.walk(TREES[path]) if isinstance(node, kinds))


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return {name.partition(".")[0] for name in names}


def reads_pickle(node: ast.Attribute | ast.ImportFrom) -> bool:
    """`pickle.loads`, called or passed on; `from pickle import ...` hides which, so it counts."""
    if isinstance(node, ast.ImportFrom):
        return bool(imported(node) & PICKLES)
    return node.attr in ("load", "loads", "Unpickler") and ast.unparse(node.value) in PICKLES


def undocumented_fields(config: ast.ClassDef) -> Iterator[ast.AnnAssign]:
    """Annotated fields that no string literal follows. A `ClassVar` is not a field."""
    for node, below in zip(config.body, [*config.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or "ClassVar" in ast.unparse(node.annotation):
            continue
        documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if not (documented and isinstance(below.value.value, str)):
            yield node


def test_every_config_field_has_its_line():
    missing = [
        f"{place(path, field)} {node.name}.{ast.unparse(field.target)}"
        for path, node in nodes(ast.ClassDef)
        if node.name.endswith("Config")
        for field in undocumented_fields(node)
    ]
    assert not missing, "a line on effect, unit and what None means belongs under each field: " + ", ".join(missing)


def test_init_files_are_empty():
    full = [str(path.relative_to(ROOT)) for path in LIBRARY if path.name == "__init__.py" and path.read_text().strip()]
    assert not full, f"importing one module must not load its neighbours: empty {full}"


def test_checkpoints_are_never_unpickled():
    calls = [
        place(path, node)
        for path, node in nodes(ast.Call)
        if ast.unparse(node.func) == "torch.load" and not is_constant(keyword(node, "weights_only"), True)
    ]
    assert not calls, f"torch.load runs code from the file unless weights_only=True: {calls}"


def test_pickles_stay_between_a_parent_and_its_child():
    imports = [
        place(path, node)
        for path, node in nodes(ast.Import, ast.ImportFrom)
        if imported(node) & PICKLES and str(path.relative_to(ROOT)) not in MAY_WRITE_PICKLES
    ]
    assert not imports, f"reading a pickle runs code from it, use safetensors or JSON: {imports}"
    reads = [
        place(path, node)
        for path, node in nodes(ast.Attribute, ast.ImportFrom)
        if reads_pickle(node) and str(path.relative_to(ROOT)) not in MAY_READ_PICKLES
    ]
    assert not reads, f"only a child may unpickle, and only what its parent wrote: {reads}"


def test_no_shell():
    calls = [place(path, node) for path, node in nodes(ast.Call) if is_constant(keyword(node, "shell"), True)]
    calls += [
        place(path, node) for path, node in nodes(ast.Call) if ast.unparse(node.func) in ("os.system", "os.popen")
    ]
    assert not calls, f"a shell interprets what users wrote, pass a list of arguments: {calls}"


def test_no_error_is_swallowed():
    places = [
        place(path, node)
        for path, node in nodes(ast.ExceptHandler)
        if node.type is None or all(isinstance(line, ast.Pass) for line in node.body)
    ]
    assert not places, f"an error is handled, named and counted, or raised: {places}"


def test_serve_is_ours_and_rays_is_ray_serve():
    names = [
        f"{place(path, node)} {ast.unparse(node)}"
        for path, node in nodes(ast.ImportFrom)
        for alias in node.names
        if node.module == "ray" and alias.name == "serve" and alias.asname != "ray_serve"
    ]
    names += [
        f"{place(path, node)} {ast.unparse(node)}"
        for path, node in nodes(ast.Import)
        for alias in node.names
        if alias.name.startswith("ray.serve")
    ]
    assert not names, f"`from ray import serve as ray_serve` everywhere, `serve` is this repository's: {names}"


def test_functions_are_short():
    long = [
        f"{place(path, node)} {node.name} has {length}"
        for path, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef, of=LIBRARY)
        if (length := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, f"functions of more than {MAX_FUNCTION_LINES} lines: " + ", ".join(long)


def test_files_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in LIBRARY}
    long = [f"{path} has {length}" for path, length in lengths.items() if length > MAX_FILE_LINES]
    assert not long, f"files of more than {MAX_FILE_LINES} lines: " + ", ".join(long)


@pytest.mark.parametrize(
    ("source", "undocumented"),
    [
        ('class AConfig:\n    size: int = 1\n    """Rows."""\n', []),
        ("class AConfig:\n    size: int = 1\n", ["size"]),
        ('class AConfig:\n    size: int = 1\n    rate: float = 2.0\n    """Per step."""\n', ["size"]),
        ('class AConfig:\n    """The class."""\n    kind: ClassVar[str] = "a"\n', []),
    ],
)
def test_an_undocumented_field_is_found(source, undocumented):
    found = [ast.unparse(field.target) for field in undocumented_fields(ast.parse(source).body[0])]
    assert found == undocumented
