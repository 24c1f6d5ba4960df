"""The structure of the package, read from its source: imports one way, names in one place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "squad_otel"

#: Lowest first: a module imports only from its own row, or from rows above it.
LAYERS = (
    ("errors",),
    ("ids", "commands", "plain"),
    ("events", "sessions"),
    ("metrics", "settings", "batch", "prices"),
    ("spool", "rollups"),
    ("schema", "retention"),
    ("journal", "api", "running"),
    ("sources",),
    ("export", "forget"),
    ("gauges", "alertmanager", "query"),
    ("report",),
    ("servers", "http"),
    ("daemon",),
    ("demo",),
    ("cli",),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            base = node.module or ""
            # `from squad_otel import daemon` imports the module, too
            found += [
                (node, f"{base}.{alias.name}" if base == "squad_otel" else base)
                for alias in node.names
            ]
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    name = name_of(path)
    tree = ast.parse(path.read_text())
    top = name.split(".")[0]
    if not top:  # the package itself shows the track API
        ours = {m for _, m in imports(tree) if m.startswith("squad_otel")}
        assert ours == {"squad_otel.api"}
        return
    assert top in LEVEL, f"give {top} a place in LAYERS"
    for node, module in imports(tree):
        if not module.startswith("squad_otel."):
            continue
        target = module.removeprefix("squad_otel.").split(".")[0]
        if target.startswith("__"):
            continue
        assert target in LEVEL, f"line {node.lineno}: {module} is no module of the package"
        if target == top:
            continue
        assert LEVEL[target] <= LEVEL[top], f"line {node.lineno}: {name} imports {module}"


def test_the_modules_of_the_package_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    names = {name_of(path) for path in FILES}
    for path in FILES:
        targets = {m.removeprefix("squad_otel.") for _, m in imports(ast.parse(path.read_text()))}
        graph[name_of(path)] = (targets & names) - {""}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"import cycle: {' -> '.join((*above, name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_import_hides_in_a_function(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for block in tree.body:  # `if TYPE_CHECKING:` and the like
        if isinstance(block, ast.If | ast.Try):
            top |= {id(node) for node in ast.walk(block)}
    hidden = [node.lineno for node, _ in imports(tree) if id(node) not in top]
    assert hidden == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_metric_names_stand_in_their_table_only(path: Path) -> None:
    if name_of(path) == "metrics":
        return
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            assert not re.search(r"\bsquad_(?!otel\b)[a-z]", node.value), f"line {node.lineno}"


def test_importing_the_package_or_asking_for_help_loads_nothing_heavy() -> None:
    code = "import sys, squad_otel.cli; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    ).stdout.split()
    for heavy in ("rich", "opentelemetry", "prometheus_client", "jinja2", "sqlite3", "urllib3"):
        assert heavy not in loaded


def test_the_reference_page_is_up_to_date() -> None:
    build = PACKAGE.parent / "docs" / "build.py"
    done = subprocess.run(
        [sys.executable, str(build), "--check"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.returncode == 0, done.stderr
