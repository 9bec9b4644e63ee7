"""What the Python bindings of a TensorRT version offer, and what a source file uses of it.

The bindings are imported in a child process, against libraries of nothing but the ten functions they link to; their
classes, members and signatures are then compared with the uses that the syntax tree of a file shows.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

# The C functions that the bindings link to; all return 0 here.
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getInferLibVersion",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")

# Runs in the child: prints every class and function of the module as JSON.
_DESCRIBE = """
import inspect, json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as trt

def member(owner, name):
    value = getattr(owner, name)
    if inspect.isclass(value):
        return {"kind": "class"}
    if isinstance(value, owner) or type(value).__name__ == "Severity":
        return {"kind": "value"}
    if isinstance(value, property):
        return {"kind": "property"}
    return {"kind": "method", "doc": value.__doc__ or ""}

api = {}
for name, value in vars(trt).items():
    if inspect.isclass(value):
        api[name] = {n: member(value, n) for n in dir(value)}
    elif inspect.isfunction(value):
        api[name] = {"__call__": {"kind": "method", "doc": name + str(inspect.signature(value))}}
    elif isinstance(value, str):
        api[name] = {}
    elif type(value).__name__ == "DataType":
        api[name] = {}
print(json.dumps(api))
"""

Api = dict[str, dict[str, dict[str, str]]]


def compile_stubs(folder: Path, major: int) -> None:
    """Compiles the libraries that the bindings of a major version link to."""
    source = folder / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True)


def read_api(bindings: Path, libraries: Path) -> Api:
    """The classes and functions of the bindings in a folder: for each the kind and the docstring of its members."""
    env = os.environ | {"LD_LIBRARY_PATH": str(libraries)}
    command = [sys.executable, "-c", _DESCRIBE, str(bindings)]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


@dataclass(frozen=True)
class Signature:
    """One way to call a function: its parameters without `self`, which of them must be given, what it returns."""

    parameters: tuple[str, ...]
    required: frozenset[str]
    returns: str | None

    def refuses(self, positional: int, keywords: list[str]) -> str | None:
        """What is wrong with a call, or None."""
        if positional > len(self.parameters):
            return f"takes {len(self.parameters)} arguments, not {positional}"
        given = {*self.parameters[:positional], *keywords}
        if unknown := sorted(given - set(self.parameters)):
            return f"has no parameter {', '.join(unknown)}"
        if missing := sorted(self.required - given):
            return f"is called without {', '.join(missing)}"
        return None


def signatures(name: str, doc: str) -> list[Signature]:
    """The signatures in the docstring that pybind11 writes for a function."""
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> (.*))?$", doc, re.MULTILINE)
    found = []
    for parameters, returns in lines:
        if parameters.startswith("*args"):
            continue  # the headline of several signatures
        # Split at commas outside brackets.
        parts = [p.strip() for p in re.split(r",(?![^\[\(<]*[\]\)>])", parameters) if p.strip()]
        names = [re.split(r"[:=]", part, maxsplit=1)[0].strip() for part in parts]
        optional = {n for n, part in zip(names, parts, strict=True) if "=" in part.split(": ", 1)[-1]}
        names = [n for n in names if n != "self"]
        found.append(Signature(tuple(names), frozenset(names) - optional, _class_of(returns)))
    return found


def _class_of(annotation: str) -> str | None:
    """The class that a return annotation names: "tensorrt_bindings.tensorrt.ITensor" gives "ITensor"."""
    name = re.split(r"\.|::", annotation.strip())[-1]
    # The parser's errors are documented under the name of the C++ interface.
    return {"IParserError": "ParserError", "": None}.get(name, name)


@dataclass
class _Scope:
    """What names mean: the class of an instance, or "class C" for a class, or "module"."""

    names: dict[str, str] = field(default_factory=dict)
    owner: str | None = None  # the class around it


class Uses(ast.NodeVisitor):
    """Follows what a file does with TensorRT and compares it with an API.

    ``problems`` are uses that the API does not have, ``seen`` those that it has, as "Class.member". Types come from
    what calls return and from annotations; an attribute that only TensorRT has, on something whose type is not known,
    is a problem, too: it would go unchecked.
    """

    def __init__(self, source: str, api: Api) -> None:
        self.api = api
        self.problems: list[str] = []
        self.seen: set[str] = set()
        tree = ast.parse(source)
        self._returns = {
            node.name: self._annotated(node.returns) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }
        # Attributes of self, of any class of the file: their names are unique enough.
        self._attributes: dict[str, str] = {}
        self._scopes = [_Scope({"trt": "module", "tensorrt": "module"})]
        methods = {m for members in api.values() for m, d in members.items() if d["kind"] == "method" and "_" in m[1:]}
        self._own_methods = {m for m in methods if not m.startswith("_")}
        self.visit(tree)

    # Scopes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        owner = self._scopes[-1].owner
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if owner is not None:
            self._check_override(owner, node, [a.arg for a in arguments])
        known = {a.arg: t for a in arguments if (t := self._annotated(a.annotation)) is not None}
        self._scopes.append(_Scope(self._scopes[-1].names | known))
        for default in node.args.defaults:
            self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [t.removeprefix("class ") for b in node.bases if (t := self._type(b)) and t.startswith("class ")]
        self._scopes.append(_Scope(dict(self._scopes[-1].names), bases[0] if bases else None))
        for statement in node.body:
            self.visit(statement)
        self._scopes.pop()
        if bases:
            self._scopes[-1].names[node.name] = f"class {bases[0]}"

    # Statements that say what a name is

    def visit_Assign(self, node: ast.Assign) -> None:
        kind = self._type(node.value)
        for target in node.targets:
            self._set(target, kind)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        kind = self._annotated(node.annotation) or (None if node.value is None else self._type(node.value))
        if node.value is not None:
            self._type(node.value)
        self._set(node.target, kind)

    def visit_Expr(self, node: ast.Expr) -> None:
        self._type(node.value)

    def generic_visit(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._type(child)
            else:
                self.visit(child)

    def _set(self, target: ast.expr, kind: str | None) -> None:
        if isinstance(target, ast.Name):
            if kind is None:
                self._scopes[-1].names.pop(target.id, None)
            else:
                self._scopes[-1].names[target.id] = kind
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            if kind is not None:
                self._attributes[target.attr] = kind
        else:
            self._type(target)

    # Expressions

    def _type(self, node: ast.expr) -> str | None:
        """The type of an expression; what is used in it is checked on the way."""
        if isinstance(node, ast.Name):
            return self._scopes[-1].names.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self._attributes.get(node.attr)
            return self._attribute(node, self._type(node.value))
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Subscript):
            self._type(node.slice)
            kind = self._type(node.value)
            return kind.removeprefix("values of ") if kind and kind.startswith("values of ") else None
        if isinstance(node, ast.Lambda):
            return self._type(node.body)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            self._scopes.append(_Scope(dict(self._scopes[-1].names)))
            for generator in node.generators:
                self._type(generator.iter)
                for condition in generator.ifs:
                    self._type(condition)
            for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
                self._type(part)
            self._scopes.pop()
            return None
        self.generic_visit(node)
        return None

    def _attribute(self, node: ast.Attribute, kind: str | None) -> str | None:
        name = node.attr
        if kind is None:
            if name in self._own_methods:
                self._problem(node, f".{name} of something whose type is not known: annotate it")
            return None
        if kind == "module":
            if name not in self.api:
                self._problem(node, f"there is no tensorrt.{name}")
                return None
            self.seen.add(name)
            return f"class {name}" if self.api[name] else None
        owner = kind.removeprefix("class ")
        if owner not in self.api:
            return None
        if name not in self.api[owner]:
            self._problem(node, f"{owner} has no {name}")
            return None
        self.seen.add(f"{owner}.{name}")
        found = self.api[owner][name]["kind"]
        if found == "class":
            return f"class {name}"
        return (
            f"method {owner}.{name}" + (" unbound" if kind.startswith("class ") else "") if found == "method" else None
        )

    def _call(self, node: ast.Call) -> str | None:
        function = node.func
        kind = self._type(function)
        for argument in [*node.args, *(k.value for k in node.keywords)]:
            self._type(argument)
        if kind is None:
            if isinstance(function, ast.Name):
                return self._returns.get(function.id)
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                return self._returns.get(function.attr) if function.value.id == "self" else None
            return None
        if kind.startswith("class "):
            owner = kind.removeprefix("class ")
            if "__call__" in self.api[owner] and "__init__" not in self.api[owner]:  # a plain function
                return self._check(node, owner, owner, self.api[owner]["__call__"]["doc"], 0)
            if not any(name.startswith("__") and name == "__members__" for name in self.api[owner]):
                self._check(node, f"{owner}.__init__", "__init__", self.api[owner]["__init__"]["doc"], 0)
            return owner
        if kind.startswith("method "):
            path, _, unbound = kind.removeprefix("method ").partition(" ")
            owner, name = path.split(".")
            return self._check(node, path, name, self.api[owner][name]["doc"], 1 if unbound else 0)
        return None

    def _check(self, node: ast.Call, what: str, name: str, doc: str, own: int) -> str | None:
        """Compares a call with the signatures of a docstring. `own`: positional arguments that are `self`."""
        known = signatures(name, doc)
        if not known:
            self._problem(node, f"{what} documents no signature")
            return None
        keywords = [k.arg for k in node.keywords if k.arg is not None]
        refusals = [s.refuses(len(node.args) - own, keywords) for s in known]
        for signature, refusal in zip(known, refusals, strict=True):
            if refusal is None:
                return signature.returns
        self._problem(node, f"{what} {refusals[0]}")
        return None

    def _check_override(self, owner: str, node: ast.FunctionDef, parameters: list[str]) -> None:
        """A method that TensorRT calls must be one of its class's, with its parameters."""
        if node.name.startswith("_"):
            return
        if node.name not in self.api[owner]:
            self._problem(node, f"{owner} has no {node.name} to override")
            return
        self.seen.add(f"{owner}.{node.name}")
        known = signatures(node.name, self.api[owner][node.name]["doc"])
        if [list(s.parameters) for s in known] != [parameters[1:]]:
            self._problem(node, f"{owner}.{node.name} has other parameters than {', '.join(parameters[1:])}")

    def _annotated(self, annotation: ast.expr | None) -> str | None:
        """The class of an annotation `trt.X`, or of the values of `dict[..., trt.X]`."""
        if isinstance(annotation, ast.Attribute) and isinstance(annotation.value, ast.Name):
            return annotation.attr if annotation.value.id in ("trt", "tensorrt") else None
        if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
            inner = self._annotated(annotation.slice.elts[-1])
            return None if inner is None else f"values of {inner}"
        return None

    def _problem(self, node: ast.expr | ast.FunctionDef, text: str) -> None:
        self.problems.append(f"line {node.lineno}: {text}")
