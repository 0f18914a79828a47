"""Small things that every piece of SQL here needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

TYPES = {"string": "VARCHAR", "int64": "BIGINT", "int32": "INTEGER", "double": "DOUBLE", "bool": "BOOLEAN"}
"""Arrow's names of types → SQL's."""


def quote(text: str) -> str:
    """Return text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quote_path(path: str) -> str:
    """Return a path as an SQL literal that names this file and no other: no globbing."""
    return quote(re.sub(r"([*?\[])", r"[\1]", path))


def identifier(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def nothing(columns: Iterable[tuple[str, str]]) -> str:
    """Return a SELECT of no row with the columns (name, Arrow's name of its type)."""
    return "SELECT " + ", ".join(f"NULL::{TYPES[kind]} AS {identifier(name)}" for name, kind in columns) + " WHERE false"


def fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """Return a small result as dicts."""
    cursor = connection.execute(sql)
    names = [d[0] for d in cursor.description or []]
    return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
