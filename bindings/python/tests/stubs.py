"""The docstrings of the stubs are those of the compiled module: editors show what `help()` says.

They are written once, in Rust. After a change there, with the new build on the path::

    python bindings/python/tests/stubs.py bindings/python/python/traflux/_traflux
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, Union

Item = Union[ast.ClassDef, ast.FunctionDef]


def items(tree: ast.Module) -> Iterator[tuple[str, Item, ast.ClassDef | None]]:
    """Public classes, their public members, and public functions: dotted name, node, and class of a member."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node.name, node, None
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member, node


def said(module: Any, name: str) -> str:
    """What `help()` says of a dotted name."""
    for part in name.split("."):
        module = getattr(module, part)
    return inspect.cleandoc(module.__doc__ or "")


def of(stub: pathlib.Path) -> Any:
    """The compiled module of a stub."""
    return importlib.import_module(f"traflux._traflux.{stub.stem}")


def written(text: str, indent: int) -> list[str]:
    """A docstring as lines of a file."""
    pad = " " * indent
    text = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    first, *rest = text.split("\n")
    if not rest:
        return [f'{pad}"""{first}"""']
    return [f'{pad}"""{first}', *(f"{pad}{line}".rstrip() for line in rest), f'{pad}"""']


def with_docs(stub: pathlib.Path) -> str:
    """The text of a stub with the docstrings of its module."""
    text, module = stub.read_text(encoding="utf-8"), of(stub)
    lines = text.split("\n")
    for name, node, _ in reversed(list(items(ast.parse(text)))):
        first = node.body[0]
        docs = written(said(module, name), node.col_offset + 4)
        is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        begin, end = first.lineno - 1, (first.end_lineno or first.lineno)
        if isinstance(node, ast.ClassDef) and not (is_doc and isinstance(first.value.value, str)):
            lines[begin - len(getattr(first, "decorator_list", [])) : begin] = [
                *docs,
                "",
                *lines[begin - len(getattr(first, "decorator_list", [])) : begin],
            ]
        else:
            head = lines[begin][: first.col_offset].rstrip()
            lines[begin:end] = [head, *docs] if head else docs
    return "\n".join(lines)


def main(folder: str) -> None:
    for stub in sorted(pathlib.Path(folder).glob("[a-z]*.pyi")):
        text = with_docs(stub)
        stub.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
