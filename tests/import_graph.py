"""The import graphs of the files and folders of the three packages, read from the import statements."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.paths import ROOT

PACKAGES = ("pretokenizer", "megatron_train", "checkpoint_convert")
"""The packages in the direction of the data: each may import from those before it."""

Graph = dict[str, set[str]]
"""Each node (file or folder) -> the nodes that it imports."""


def sources(package: str, root: Path = ROOT) -> list[Path]:
    return sorted((root / package).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Return the full names that a file imports, at any depth of the code. A relative import fails the assertion."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def file_graph(root: Path = ROOT) -> Graph:
    """Return the modules that each module imports, such as `pretokenizer.build` -> `pretokenizer.tasks.plan`."""
    modules = {module_name(path, root): path for package in PACKAGES for path in sources(package, root)}
    graph: Graph = {}
    for module, path in modules.items():
        graph[module] = {
            found for name in imports_of(path) if (found := longest_module(name, modules)) and found != module
        }
    return graph


def folder_graph(graph: Graph) -> Graph:
    """Return the folders that each folder imports. The files in a package's root folder count as `package.*`."""
    folders: Graph = {}
    for module, imported in graph.items():
        own = folder_of(module)
        folders.setdefault(own, set()).update({folder_of(name) for name in imported} - {own})
    return folders


def module_name(path: Path, root: Path) -> str:
    """Return `a.b.c` for a/b/c.py, and `a.b.__init__` for a/b/__init__.py."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def longest_module(name: str, modules: dict[str, Path]) -> str | None:
    """Return the module that an imported name belongs to, or None outside the three packages."""
    while name:
        if name in modules:
            return name
        if f"{name}.__init__" in modules and modules[f"{name}.__init__"].stat().st_size:
            return f"{name}.__init__"
        name = name.rpartition(".")[0]
    return None


def folder_of(module: str) -> str:
    """Return `pretokenizer.chat` for pretokenizer.chat.roles, `pretokenizer.*` for pretokenizer.build."""
    folder = module.rpartition(".")[0]
    return folder if "." in folder else f"{folder}.*"


def circles(graph: Graph) -> list[str]:
    """Return the import circles: groups of nodes that reach one another, as sorted names joined by spaces."""
    reach = {node: reachable(graph, node) for node in graph}
    groups = {frozenset({node} | {other for other in reach[node] if node in reach.get(other, ())}) for node in graph}
    return sorted(" ".join(sorted(group)) for group in groups if len(group) > 1)


def reachable(graph: Graph, start: str) -> set[str]:
    """Return every node that `start` imports directly or through others."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found
