"""Every public name says what it is, in `help()` and in editors alike, with shapes and units."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re

import pytest

import stubs
import traflux

PACKAGE = pathlib.Path(traflux.__file__).parent
STUBS = sorted((PACKAGE / "_traflux").glob("[a-z]*.pyi"))
MODULES = ["traflux", "traflux.envs", "traflux.gateway", "traflux.lp", "traflux.policy", "traflux.te"]
SOURCES = [PACKAGE / name for name in ("te.py", "policy.py", "envs/_base.py", "envs/_fleet.py", "envs/_network.py")]

#: What a number may be in.
UNITS = re.compile(
    r"second|bit/s|requests/s|dollar|µs|share|fraction|ratio|utilisation|factor|probability|weight|dimensionless|gap",
    re.IGNORECASE,
)


def public(module):
    """Classes and functions that a module exports, and the members of those classes."""
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        yield f"{module.__name__}.{name}", value
        for member, held in vars(value).items() if inspect.isclass(value) else []:
            documented = inspect.isroutine(held) or inspect.isdatadescriptor(held)
            if documented and not member.startswith("_"):
                yield f"{module.__name__}.{name}.{member}", getattr(value, member)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    bare = [place for place, value in public(module) if not (value.__doc__ or "").strip()]
    assert not bare, bare


def test_there_is_something_to_document():
    counted = sum(1 for name in MODULES for _ in public(importlib.import_module(name)))
    assert counted > 200, counted
    assert {stub.stem for stub in STUBS} == {"controller", "envs", "errors", "gateway", "lp", "policy", "te"}


@pytest.mark.parametrize("stub", STUBS, ids=[stub.stem for stub in STUBS])
def test_editors_show_what_help_says(stub):
    module, tree = stubs.of(stub), ast.parse(stub.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module says what it is"
    for name, node, _ in stubs.items(tree):
        shown = inspect.cleandoc(ast.get_docstring(node) or "")
        assert shown and shown == stubs.said(module, name), f"{stub.stem}.{name}: run tests/stubs.py"


def signature(node):
    """Annotations of what goes in, and of what comes out."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    into = {one.arg: ast.unparse(one.annotation) for one in given if one.annotation is not None}
    return into, ast.unparse(node.returns) if node.returns is not None else ""


@pytest.mark.parametrize("path", [*STUBS, *SOURCES], ids=lambda path: path.name)
def test_arrays_have_shapes_and_numbers_have_units(path):
    wrong = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name, node, owner in stubs.items(tree):
        makes = [] if isinstance(node, ast.FunctionDef) else [
            one for one in node.body if isinstance(one, ast.FunctionDef) and one.name in ("__new__", "__init__")
        ]
        doc = ast.get_docstring(node) or ""
        for function in [node] if isinstance(node, ast.FunctionDef) else makes:
            into, out = signature(function)
            arrays = [key for key, kind in into.items() if re.search("NDArray|ArrayLike", kind)]
            if (arrays or "NDArray" in out) and not re.search(r"``\(.*\)``", doc):
                wrong.append(f"{name}: no shape")
            told = doc + (ast.get_docstring(owner) or "" if owner else "")
            if out in ("float", "float | None") or "float64" in out:
                if not UNITS.search(doc):
                    wrong.append(f"{name}: no unit of what comes out")
            if "now" in into and "second" not in told and "`now`" not in told:
                wrong.append(f"{name}: now has no unit")
    assert not wrong, wrong
