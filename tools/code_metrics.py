"""Measure the size and layering of a checkout: `python tools/code_metrics.py [ROOT] [--json] [--import-time N]`.

The numbers come from the syntax trees and tokens of the files. Only `--import-time` runs code of the checkout.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import io
import json
import os
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

PACKAGE = "osprey_ros"
PRODUCT = (PACKAGE, "export", "osprey_torch", "osprey_sim", "training", "evaluation")
TESTS = "tests"
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
BUILTIN_EXCEPTIONS = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
Definition: TypeAlias = "ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef"
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
# Import statements by when they run: at import, for type checkers only, or in a function call.
KINDS = ("module_level", "type_checking", "lazy")
TIMED_IMPORT = """
import sys, time
start = time.perf_counter()
import {package}
print(1000 * (time.perf_counter() - start))
print({package}.__file__)
"""


@dataclass(frozen=True)
class Source:
    """A Python file: its path in the checkout, text and syntax tree."""

    path: str
    text: str
    tree: ast.Module


@dataclass(frozen=True, order=True)
class Longest:
    """The longest definition of a kind; its lines include docstring, comments and blank lines."""

    lines: int = 0
    name: str = ""
    where: str = ""


@dataclass(frozen=True)
class Folder:
    """Numbers of one or more folders. ``code_lines`` has no comments, docstrings and blank lines."""

    files: int
    code_lines: int
    longest_file: Longest
    longest_class: Longest
    longest_function: Longest
    exception_classes: int


@dataclass(frozen=True)
class Layers:
    """The import graph of the package. A cycle of modules counts as one floor.

    Attributes:
        floors: Length of the longest chain of imports, in modules.
        chain: That chain from the top; modules of a cycle are joined by " + ".
        cycles: Groups of modules that import one another.
        arrows: Number of module pairs with an import.
    """

    floors: int
    chain: list[str]
    cycles: list[list[str]]
    arrows: int


@dataclass(frozen=True)
class Report:
    """All metrics of a checkout.

    Attributes:
        top_modules: Modules directly in the package, without `__init__` and `__main__`.
        modules: All modules of the package.
        layers: By the imports that count: module level only, then those for type checkers too, then lazy ones too.
        folders: By name of the folder; "product" is all of `PRODUCT` together.
        import_ms: Median time to import the package in a fresh process; None if not measured.
    """

    top_modules: int
    modules: int
    layers: dict[str, Layers]
    folders: dict[str, Folder]
    import_ms: float | None = None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    default = Path(__file__).resolve().parents[1]
    parser.add_argument("root", nargs="?", type=Path, default=default, help="folder of the checkout (this repository)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--import-time", type=int, default=0, metavar="N", help=f"time `import {PACKAGE}` in N fresh processes"
    )
    options = parser.parse_args(arguments)
    if not (options.root / PACKAGE).is_dir():
        parser.error(f"{options.root} has no folder {PACKAGE}; name the root of a checkout")
    if options.import_time < 0:
        parser.error(f"--import-time must be 0 or more, not {options.import_time}")
    report = measure(options.root, options.import_time)
    print(json.dumps(asdict(report), indent=2) if options.json else tables(report))


def measure(root: Path, import_runs: int = 0) -> Report:
    """Return the metrics of the checkout at ``root``; the import is timed ``import_runs`` times (0: not at all)."""
    sources = {name: read(root, name) for name in (*PRODUCT, TESTS) if (root / name).is_dir()}
    product = [source for name, found in sources.items() if name != TESTS for source in found]
    exceptions = exception_names([*product, *sources.get(TESTS, [])])
    folders = {name: folder(found, exceptions) for name, found in {**sources, "product": product}.items()}
    package = {module_name(source.path): source for source in sources[PACKAGE]}
    top = {name for name in package if name.count(".") == 1 and Path(package[name].path).parent == Path(PACKAGE)}
    return Report(
        top_modules=len(top - {f"{PACKAGE}.__main__"}),
        modules=len(package),
        layers=layers_by_kind(package),
        folders=folders,
        import_ms=import_milliseconds(root, import_runs) if import_runs else None,
    )


def read(root: Path, name: str) -> list[Source]:
    """Return the Python files below a folder of the checkout, sorted by path."""
    sources = []
    for path in sorted((root / name).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        sources.append(Source(path.relative_to(root).as_posix(), text, ast.parse(text, str(path))))
    return sources


def nodes(sources: Iterable[Source], *kinds: type[Definition]) -> list[tuple[Definition, Source]]:
    """Return all syntax nodes of these kinds, each with its file."""
    return [(node, source) for source in sources for node in ast.walk(source.tree) if isinstance(node, kinds)]


def folder(sources: list[Source], exceptions: set[str]) -> Folder:
    """Return the numbers of these files taken together; ``exceptions`` are the names of exception classes."""
    classes = nodes(sources, ast.ClassDef)
    return Folder(
        files=len(sources),
        code_lines=sum(code_lines(source) for source in sources),
        longest_file=max((Longest(len(s.text.splitlines()), s.path, s.path) for s in sources), default=Longest()),
        longest_class=longest(classes),
        longest_function=longest(nodes(sources, *FUNCTION)),
        exception_classes=sum(node.name in exceptions for node, _ in classes),
    )


def longest(found: Iterable[tuple[Definition, Source]]) -> Longest:
    """Return the definition with the most lines, decorators not counted."""
    sizes = (
        Longest((node.end_lineno or node.lineno) - node.lineno + 1, node.name, f"{source.path}:{node.lineno}")
        for node, source in found
    )
    return max(sizes, default=Longest())


def code_lines(source: Source) -> int:
    """Count the lines with code: not blank, and not only a comment or a docstring."""
    docstrings = {expression.lineno for expression in docstrings_of(source.tree)}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        is_docstring = token.type == tokenize.STRING and token.start[0] in docstrings
        if token.type not in NO_CODE and not is_docstring:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def docstrings_of(tree: ast.Module) -> Iterator[ast.Expr]:
    """Yield the docstrings of a module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTION)) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            yield first


def exception_names(sources: Iterable[Source]) -> set[str]:
    """Return the names of classes that derive from an exception, directly or through another of these classes."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    }
    found: set[str] = set()
    while more := {name for name, parents in bases.items() if parents & (BUILTIN_EXCEPTIONS | found)} - found:
        found |= more
    return found


def module_name(path: str) -> str:
    """Return the dotted name of a module of a file in the checkout."""
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layers_by_kind(package: Mapping[str, Source]) -> dict[str, Layers]:
    """Return the layers of the import graph for each of `KINDS`, earlier kinds included."""
    edges: dict[str, dict[str, set[str]]] = {kind: {name: set() for name in package} for kind in KINDS}
    for name, source in package.items():
        is_package = Path(source.path).name == "__init__.py"
        for kind, node in imports(source.tree):
            edges[kind][name] |= targets(node, name, is_package, package.keys()) - {name}
    result, graph = {}, {name: set[str]() for name in package}
    for kind in KINDS:
        graph = {name: graph[name] | edges[kind][name] for name in package}
        result[kind] = layers(graph)
    return result


def imports(tree: ast.Module) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """Yield each import of a module with its kind (one of `KINDS`)."""

    def walk(node: ast.AST, kind: str) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield kind, node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                yield from walk(statement, "type_checking" if kind == "module_level" else kind)
            for statement in node.orelse:
                yield from walk(statement, kind)
        else:
            inner = "lazy" if isinstance(node, (*FUNCTION, ast.Lambda)) else kind
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inner)

    yield from walk(tree, "module_level")


def targets(node: ast.Import | ast.ImportFrom, importer: str, is_package: bool, modules: Iterable[str]) -> set[str]:
    """Return the modules of the package that an import statement names.

    The packages that Python imports on the way to a module are not counted.
    """
    known = set(modules)
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & known
    base = node.module or ""
    if node.level:
        parts = importer.split(".")
        parents = parts[: len(parts) - node.level + is_package]
        base = ".".join([*parents, base] if base else parents)
    if base not in known:
        return set()
    return {name if (name := f"{base}.{alias.name}") in known else base for alias in node.names}


def layers(graph: Mapping[str, set[str]]) -> Layers:
    """Return the longest chain of a graph whose cycles are merged into one node each."""
    groups = components(graph)
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    # Groups come with those that they import before them, so that one pass finds the depths.
    depth = [1] * len(groups)
    below: list[int | None] = [None] * len(groups)
    for number, group in enumerate(groups):
        for other in sorted({group_of[target] for name in group for target in graph[name]} - {number}):
            if depth[other] + 1 > depth[number]:
                depth[number], below[number] = depth[other] + 1, other
    chain: list[str] = []
    at: int | None = depth.index(max(depth)) if depth else None
    while at is not None:
        chain.append(" + ".join(groups[at]))
        at = below[at]
    return Layers(
        floors=max(depth, default=0),
        chain=chain,
        cycles=[group for group in groups if len(group) > 1],
        arrows=sum(len(found) for found in graph.values()),
    )


def components(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of a graph (Tarjan 1972), imported ones first."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            at = stack.index(name)
            result.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return result


def import_milliseconds(root: Path, runs: int) -> float:
    """Return the median time of importing the package of a checkout in fresh processes, in milliseconds.

    One run before the timed ones fills the file cache and writes the byte code.
    """
    environment = {**os.environ, "PYTHONPATH": str(root.resolve())}
    command = [sys.executable, "-c", TIMED_IMPORT.format(package=PACKAGE)]
    times = []
    for _ in range(runs + 1):
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        milliseconds, file = done.stdout.splitlines()
        if not Path(file).resolve().is_relative_to(root.resolve()):
            raise RuntimeError(f"{PACKAGE} was imported from {file}, not from {root}; run with another Python")
        times.append(float(milliseconds))
    return statistics.median(times[1:])


def tables(report: Report) -> str:
    """Return the report as text for a terminal."""
    lines = [
        f"modules directly in {PACKAGE}: {report.top_modules} (of {report.modules})",
        *(
            f"floors, {label}: {found.floors}; cycles: {len(found.cycles)}; arrows: {found.arrows}"
            for label, found in zip(
                ("module-level imports", "with TYPE_CHECKING", "with imports in functions"),
                report.layers.values(),
                strict=True,
            )
        ),
    ]
    if report.import_ms is not None:
        lines.append(f"import {PACKAGE}: {report.import_ms:.1f} ms")
    lines.append(f"\n{'folder':14}{'files':>6}{'code':>8}{'errors':>8}  longest class, function")
    for name, found in report.folders.items():
        largest = ", ".join(f"{one.lines} {one.name}" for one in (found.longest_class, found.longest_function))
        lines.append(f"{name:14}{found.files:6}{found.code_lines:8,}{found.exception_classes:8}  {largest}")
    chain = report.layers[KINDS[0]].chain
    lines += ["", "longest chain of module-level imports:", *(f"  {name}" for name in chain)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
