"""Conditions in paths: which records a module or an output gets, said by selections and columns.

``loud and not early or Sum.energy > 20``: names of selections, columns of banks with one row compared with
numbers, ``and``, ``or``, ``not`` and brackets.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from beamwright.core.errors import ConfigError
from beamwright.event.banks import ONE, BankSet
from beamwright.event.batch import Batch
from beamwright.event.table import Mask

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_HINT = "write selections and comparisons of columns with numbers: loud and not early, or Sum.energy > 20"


@dataclass(frozen=True)
class Condition:
    """A condition that was read and found to be one."""

    text: str
    tree: ast.expr
    columns: tuple[tuple[str, str], ...]

    @property
    def banks(self) -> tuple[str, ...]:
        """The banks whose columns are compared."""
        return tuple(dict.fromkeys(bank for bank, _ in self.columns))

    def check(self, banks: BankSet) -> None:
        """Check that the columns that are compared are declared, one value per record.

        Raises: UnknownNameError, ConfigError.
        """
        for bank, column in self.columns:
            declared = banks[bank]
            if declared.rows != ONE or declared[column].jagged:
                raise ConfigError(
                    f"condition {self.text!r} compares {bank}.{column}, which has not one value per record",
                    hint="make a selection in a module: batch.select(mask, name)",
                )

    def mask(self, batch: Batch) -> Mask:
        """Tell for which records of a batch it holds.

        Raises: UnknownNameError where no module made a selection.
        """
        if not batch.n:
            return np.zeros(0, np.bool_)
        found: Mask = np.asarray(_value(self.tree, batch), np.bool_)
        return found


@lru_cache(maxsize=256)
def condition(text: str) -> Condition:
    """Read a condition.

    Raises: ConfigError.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"{text!r} is no condition: {error.msg}", hint=_HINT) from error
    columns: list[tuple[str, str]] = []
    _check(tree, text, columns)
    return Condition(text, tree, tuple(columns))


def _check(node: ast.expr, text: str, columns: list[tuple[str, str]]) -> None:
    """Refuse all that is not part of a condition, and collect the columns."""
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _check(part, text, columns)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, text, columns)
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
        for side in (node.left, *node.comparators):
            columns += _side(side, text)
    elif not isinstance(node, ast.Name):
        raise ConfigError(f"{text!r} is no condition: {ast.unparse(node)!r} is not known", hint=_HINT)


def _side(node: ast.expr, text: str) -> list[tuple[str, str]]:
    """Return the column on one side of a comparison; none for a number."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return [(node.value.id, node.attr)]
    try:
        number = ast.literal_eval(node)
    except ValueError:
        number = None
    if not isinstance(number, bool | int | float):
        raise ConfigError(
            f"{text!r} is no condition: {ast.unparse(node)!r} is neither a number nor Bank.column", hint=_HINT
        )
    return []


def _value(node: ast.expr, batch: Batch) -> Any:
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return join.reduce([_value(part, batch) for part in node.values])
    if isinstance(node, ast.UnaryOp):
        return np.logical_not(_value(node.operand, batch))
    if isinstance(node, ast.Compare):
        sides = [_operand(side, batch) for side in (node.left, *node.comparators)]
        held = [_COMPARISONS[type(op)](sides[i], sides[i + 1]) for i, op in enumerate(node.ops)]
        return np.broadcast_to(np.logical_and.reduce(held), batch.n)
    assert isinstance(node, ast.Name), "nothing else was let in"
    return batch.selected(node.id)


def _operand(node: ast.expr, batch: Batch) -> Any:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return batch.tables[node.value.id].columns[node.attr]
    return ast.literal_eval(node)
