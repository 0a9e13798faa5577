"""The fleet on the disk: `STORE/fleet/fleet.sqlite`. Statements only; what they mean is decided elsewhere."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.hub.fleet.coordination import Change
from service.hub.fleet.documents import Desired, Reported
from service.hub.fleet.records import Generation, Node, Problem, Token
from service.store.database import Database
from service.store.schema import Schema

SCHEMA = Schema(Path(__file__).with_name("migrations"), 1, "fleet file")
GENERATIONS_KEPT = 50
"""Of each node, besides those it committed, of which as many are kept."""


_GENERATION = "number, root, kind, origin, desired, rollback, created, content, document, problem, search, committed"


def open_fleet_database(path: Path) -> Database:
    """The database of a fleet, made when missing; errors as of `Database`."""
    return Database(path, SCHEMA)


# Reading


def load_nodes(database: Database) -> list[Node]:
    """All nodes, by name, with their current generation."""
    numbers = dict(database.read("SELECT name, generation FROM names"))
    current = {
        row[0]: _generation(row[1:])
        for row in database.read(
            f"SELECT node, {_GENERATION} FROM generations JOIN nodes ON name = node AND number = current"
        )
    }
    rows = database.read(
        "SELECT name, public_key, labels, capability, enrolled, last_seen, reported, declared FROM nodes ORDER BY name"
    )
    return [
        Node(
            name=row[0],
            public_key=row[1],
            labels=json.loads(row[2]),
            capability=json.loads(row[3]),
            enrolled=row[4],
            last_seen=row[5],
            generation=numbers[row[0]],
            current=current.get(row[0]),
            reported=None if row[6] is None else Reported.model_validate_json(row[6]),
            declared=None if row[7] is None else json.loads(row[7]),
        )
        for row in rows
    ]


def load_name(database: Database, name: str) -> int:
    """The greatest generation that was ever given out under a name."""
    rows = database.read("SELECT generation FROM names WHERE name = ?", (name,))
    return int(rows[0][0]) if rows else 0


def load_committed(database: Database, node: str) -> list[Generation]:
    """What a node has committed, latest generation first."""
    rows = database.read(
        f"SELECT {_GENERATION} FROM generations WHERE node = ? AND committed IS NOT NULL ORDER BY number DESC", (node,)
    )
    return [_generation(row) for row in rows]


def load_generation(database: Database, node: str, number: int) -> Generation | None:
    """One generation of a node."""
    rows = database.read(f"SELECT {_GENERATION} FROM generations WHERE node = ? AND number = ?", (node, number))
    return _generation(rows[0]) if rows else None


def load_tokens(database: Database) -> list[Token]:
    """All tokens, oldest first."""
    return [
        Token(*row)
        for row in database.read(
            "SELECT id, secret_hash, node, created, expires, used_at, used_by FROM tokens ORDER BY created, id"
        )
    ]


def load_rollouts(database: Database) -> list[dict[str, Any]]:
    """The documents of all rollouts, oldest first."""
    return [json.loads(row[0]) for row in database.read("SELECT document FROM rollouts ORDER BY created, id")]


# Writing


def add_node(node: Node) -> Change:
    """Adds a node, or gives the one of this name another key, labels and capability."""
    values = (node.name, node.public_key, _dump(node.labels), _dump(node.capability), node.enrolled, node.last_seen)
    generation = node.generation

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO names VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (values[0], generation))
        connection.execute(
            "INSERT INTO nodes (name, public_key, labels, capability, enrolled, last_seen) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET public_key = excluded.public_key, labels = excluded.labels, "
            "capability = excluded.capability, enrolled = excluded.enrolled, last_seen = excluded.last_seen",
            values,
        )

    return change


def update_node(node: Node) -> Change:
    """Writes anew what a node says of itself; nothing when it was removed or has another key."""
    values = (
        node.last_seen,
        _dump(node.capability),
        None if node.reported is None else node.reported.model_dump_json(),
        None if node.declared is None else _dump(node.declared),
        node.name,
        node.public_key,
    )
    return lambda connection: connection.execute(
        "UPDATE nodes SET last_seen = ?, capability = ?, reported = ?, declared = ? WHERE name = ? AND public_key = ?",
        values,
    )


def update_labels(name: str, labels: Mapping[str, str]) -> Change:
    """Writes the labels of a node anew."""
    text = _dump(labels)
    return lambda connection: connection.execute("UPDATE nodes SET labels = ? WHERE name = ?", (text, name))


def delete_node(name: str) -> Change:
    """Forgets a node and its generations; the numbers given out stay given out."""
    return lambda connection: connection.execute("DELETE FROM nodes WHERE name = ?", (name,))


def put_generation(node: str, generation: Generation) -> Change:
    """Adds a generation and makes it the current one, unless the node is gone."""
    values = _values(generation)

    def change(connection: sqlite3.Connection) -> None:
        connection.execute(
            f"INSERT INTO generations (node, {_GENERATION}) SELECT name, {', '.join('?' * len(values))} "
            "FROM nodes WHERE name = ?",
            (*values, node),
        )
        connection.execute("UPDATE nodes SET current = ? WHERE name = ?", (generation.number, node))
        connection.execute("UPDATE names SET generation = max(generation, ?) WHERE name = ?", (generation.number, node))
        for kept in ("committed IS NULL", "committed IS NOT NULL"):
            connection.execute(
                f"DELETE FROM generations WHERE node = ? AND {kept} AND number NOT IN (SELECT number FROM generations "
                f"WHERE node = ? AND {kept} ORDER BY number DESC LIMIT ?)",
                (node, node, GENERATIONS_KEPT),
            )

    return change


def update_generation(node: str, generation: Generation) -> Change:
    """Writes anew what became of a generation."""
    content, document, problem, search, _ = _values(generation)[-5:]
    values = (generation.kind, content, document, problem, search, node, generation.number)
    return lambda connection: connection.execute(
        "UPDATE generations SET kind = ?, content = ?, document = ?, problem = ?, search = ? "
        "WHERE node = ? AND number = ?",
        values,
    )


def commit_generation(node: str, number: int, when: float) -> Change:
    """Notes that a node keeps a generation."""
    return lambda connection: connection.execute(
        "UPDATE generations SET committed = ? WHERE node = ? AND number = ? AND committed IS NULL", (when, node, number)
    )


def put_token(token: Token) -> Change:
    """Adds a token."""
    values = (token.id, token.secret_hash, token.node, token.created, token.expires, token.used_at, token.used_by)
    return lambda connection: connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def use_token(token_id: str, *, now: int, node: str) -> Change:
    """Notes that a token is used up."""
    return lambda connection: connection.execute(
        "UPDATE tokens SET used_at = ?, used_by = ? WHERE id = ?", (now, node, token_id)
    )


def delete_token(token_id: str) -> Change:
    """Forgets a token."""
    return lambda connection: connection.execute("DELETE FROM tokens WHERE id = ?", (token_id,))


def put_rollout(rollout: Mapping[str, Any]) -> Change:
    """Adds a rollout or writes it anew."""
    values = (rollout["id"], rollout["created"], _dump(rollout))
    return lambda connection: connection.execute(
        "INSERT INTO rollouts VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document", values
    )


def delete_rollout(rollout_id: str) -> Change:
    """Forgets a rollout."""
    return lambda connection: connection.execute("DELETE FROM rollouts WHERE id = ?", (rollout_id,))


def _values(generation: Generation) -> tuple[Any, ...]:
    problem = None if generation.problem is None else _dump(vars(generation.problem))
    return (
        generation.number,
        generation.root,
        generation.kind,
        generation.origin,
        generation.desired.model_dump_json(),
        int(generation.rollback),
        generation.created,
        _dump_optional(generation.content),
        _dump_optional(generation.document),
        problem,
        _dump_optional(generation.search),
        generation.committed,
    )


def _generation(row: tuple[Any, ...]) -> Generation:
    return Generation(
        number=row[0],
        root=row[1],
        kind=row[2],
        origin=row[3],
        desired=Desired.model_validate_json(row[4]),
        rollback=bool(row[5]),
        created=row[6],
        content=_load_optional(row[7]),
        document=_load_optional(row[8]),
        problem=None if row[9] is None else Problem(**json.loads(row[9])),
        search=_load_optional(row[10]),
        committed=row[11],
    )


def _dump(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _dump_optional(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else _dump(value)


def _load_optional(text: str | None) -> Any:
    return None if text is None else json.loads(text)
