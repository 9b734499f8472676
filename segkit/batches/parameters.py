"""The parameters that a notebook declares, and whether given values fit them.

papermill pastes the *names* of parameters into the notebook as they are. So only names that the notebook's own parameters cell
assigns are let through, and with them only values of the declared type: the annotation, the type comment (`# type: int`), or else
the type of the default.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import nbformat
from papermill.inspection import _infer_parameters
from pydantic import ConfigDict, TypeAdapter, ValidationError

from segkit.errors import NoParametersCellError, NotebookParameterError, suggest

#: What a declared type may be made of; anything else is taken as "any value".
TYPES: dict[str, Any] = {each.__name__: each for each in (str, int, float, bool, list, dict, tuple)}
TYPES |= {"Any": Any, "Literal": Literal, "Optional": Optional, "Union": Union, "None": None}
TAG = "parameters"


@dataclass(frozen=True)
class Parameter:
    """One parameter that a notebook declares."""

    name: str
    type: Any  #: what its values must be
    type_name: str  #: the same for people
    default: str  #: as it is written
    help: str = ""

    def fits(self, value: Any) -> Any:
        """Return the value if it is of the declared type; an int is taken for a float.

        Raises
        ------
        ValidationError
            It is of another type.
        """
        return adapter(self.type).validate_python(value, strict=True)


def adapter(kind: Any) -> TypeAdapter[Any]:
    """Make what checks a type."""
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def declared(notebook: Any) -> dict[str, Parameter]:
    """List the parameters that a notebook declares.

    Raises
    ------
    NoParametersCellError
        No cell is tagged "parameters".
    NotebookParameterError
        The cell cannot be read as Python.
    """
    cell = parameters_cell(notebook)
    if cell is None:
        raise NoParametersCellError
    inspected = {each.name: each for each in _infer_parameters(notebook, name="python3", language=language(notebook))}
    if language(notebook) != "python":
        return {each.name: Parameter(each.name, Any, each.inferred_type_name, each.default, each.help) for each in inspected.values()}
    try:
        body = ast.parse(cell.source).body
    except SyntaxError as error:
        raise NotebookParameterError(f"The notebook's parameters cell is no Python: {error.msg} in line {error.lineno}.") from None
    found, said = {}, comments(cell.source)
    for name, annotation, value in assigned(body):
        seen = inspected.get(name)
        text = ast.unparse(annotation) if annotation is not None else (seen.inferred_type_name if seen else "None")
        kind, kind_name = (default_type(value), None) if text == "None" else (declared_type(text), text)
        found[name] = Parameter(name, kind, kind_name or name_of(kind), ast.unparse(value), said.get(value.end_lineno or 0, ""))
    return found


def parameters_cell(notebook: Any) -> Any:
    """Return the cell that is tagged "parameters", or None."""
    return next((cell for cell in notebook.cells if cell.cell_type == "code" and TAG in cell.metadata.get("tags", [])), None)


def language(notebook: Any) -> str:
    """Name the notebook's language; Python when it does not say."""
    return str(notebook.metadata.get("kernelspec", {}).get("language", "python")).lower()


def assigned(body: list[ast.stmt]) -> list[tuple[str, ast.expr | None, ast.expr]]:
    """List name, annotation and value of the plain assignments of a cell."""
    found: list[tuple[str, ast.expr | None, ast.expr]] = []
    for each in body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None:
            found.append((each.target.id, each.annotation, each.value))
        elif isinstance(each, ast.Assign) and len(each.targets) == 1 and isinstance(each.targets[0], ast.Name):
            found.append((each.targets[0].id, None, each.value))
    return found


def default_type(value: ast.expr) -> Any:
    """Take the type of a default for the declared one; of None, and of what is computed, nothing is known."""
    try:
        kind = type(ast.literal_eval(value))
    except ValueError:
        return Any
    return kind if kind in {str, int, float, bool, list, dict} else Any


def comments(source: str) -> dict[int, str]:
    """Read the comments of a cell by line: what a person wrote about a parameter, whatever its type looks like."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def declared_type(text: str) -> Any:
    """Turn a written type such as "float | None" into one; what is not made of known words is any value.

    Examples
    --------
    >>> declared_type("list[int] | None")
    list[int] | None
    """
    try:
        return built(ast.parse(text.strip("\"'"), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, KeyError):
        return Any


def built(node: ast.expr) -> Any:
    """Build a type from its written form, without running anything."""
    if isinstance(node, ast.Name):
        return TYPES[node.id]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[built(node.left), built(node.right)]  # noqa: UP007 - made while running
    if isinstance(node, ast.Subscript):
        return built(node.value)[built(node.slice)]
    if isinstance(node, ast.Tuple):
        return tuple(built(each) for each in node.elts)
    raise ValueError(ast.dump(node))


def name_of(kind: Any) -> str:
    """Name a type for people."""
    return "any" if kind is Any else kind.__name__


def check(title: str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values, each of its declared type.

    Raises
    ------
    NotebookParameterError
        A name is not declared, the nearest is suggested; or a value is of another type, or cannot be stored.
    """
    values = {}
    for name, value in given.items():
        if name not in known:
            raise NotebookParameterError(f'Notebook "{title}" has no parameter "{name}". {suggest(name, known)}')
        values[name] = fitted(title, known[name], value)
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NotebookParameterError(f'The parameters of notebook "{title}" cannot be stored: {error}.') from None
    return values


def fitted(title: str, parameter: Parameter, value: Any) -> Any:
    """Return one value, if it is of the declared type."""
    try:
        return parameter.fits(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise NotebookParameterError(
            f'Notebook "{title}", parameter "{parameter.name}": {said}. It is declared as {parameter.type_name}, and was given {value!r}.'
        ) from None


def from_text(title: str, known: Mapping[str, Parameter], given: Mapping[str, str]) -> dict[str, Any]:
    """Read values that came as text, from a command line or JupyterLab's form, as their declared types; then check them."""
    return check(title, known, {name: read_text(known[name], text) if name in known else text for name, text in given.items()})


def read_text(parameter: Parameter, text: str) -> Any:
    """Read one value: JSON or Python where the declared type takes that, and the text itself where it takes text.

    Examples
    --------
    >>> read_text(Parameter("sizes", list[int], "list[int]", "[]"), "[3, 4]")
    [3, 4]
    """
    if parameter.type is str:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return parameter.fits(read(text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue  # ValidationError is a ValueError
    return text


def read_notebook(title: str, source: str) -> Any:
    """Read a notebook's JSON.

    Raises
    ------
    NotebookParameterError
        It is none.
    """
    try:
        notebook = nbformat.reads(source, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookParameterError(f'"{title}" is no notebook that can be read: {str(error).splitlines()[0]}.') from None
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])  # papermill counts on them
    return notebook
