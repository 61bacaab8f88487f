"""Every statement of the SQLite store, written once per set of tables."""

from __future__ import annotations

from saga_backends.sql.names import Names
from saga_backends.sql.rows import ENDED_STATUSES, HISTORY_COLUMNS, INBOX_COLUMNS

__all__ = ["Statements"]


_NOT_QUEUED = "AND waiting_for IS NOT 'key' "


def _marks(count: int) -> str:
    return ", ".join("?" * count)


class Statements:
    """The statements for one set of tables."""

    def __init__(self, names: Names) -> None:
        self.names = names
        sagas, history, inbox = names.sagas, names.history, names.inbox
        key, due = names.saga_id, names.due_at
        saga = ", ".join(names.saga_columns)
        state = ", ".join(names.state_columns)
        own = "".join(f", {column}" for column in names.own_columns)
        own_marks = "".join(f", {place}" for place in names.own_places(lambda _: "?"))
        one = f"namespace = ? AND {key} = ?"
        part = "namespace = ? AND saga_id = ?"

        self.load = f"SELECT {saga} FROM {sagas} WHERE {one}"  # noqa: S608
        self.outputs = (
            f"SELECT {', '.join(HISTORY_COLUMNS)} FROM {history} "  # noqa: S608
            f"WHERE {part} AND output IS NOT NULL ORDER BY seq"
        )
        self.insert = (
            f"INSERT INTO {sagas} (namespace, {key}, saga_name, definition_version, "  # noqa: S608
            f"fingerprint, data, aggregation_id, trace_id, tags, {state}, version, fence, worker, "
            f"{due}, signals, seen, reclaims, reclaimed, entries, created_at, updated_at{own}) "
            f"VALUES ({_marks(9)}, {_marks(len(names.state_columns))}, "
            f"{_marks(7)}, 0, {_marks(3)}{own_marks})"
        )
        self.insert_entry = (
            f"INSERT INTO {history} (namespace, saga_id, seq, commit_id, version, "  # noqa: S608
            "fence, at, kind, step_id, attempt, input, output, error, error_code, actor, reason) "
            f"VALUES ({_marks(16)})"
        )
        self.insert_signal = (
            f"INSERT INTO {inbox} (namespace, saga_id, seq, at, event_id, kind, "  # noqa: S608
            f"payload, consumed) VALUES ({_marks(8)})"
        )
        self.history = (
            f"SELECT {', '.join(HISTORY_COLUMNS)}, commit_id FROM {history} "  # noqa: S608
            f"WHERE {part} AND seq > ? ORDER BY seq LIMIT ?"
        )
        self.inbox = (
            f"SELECT {', '.join(INBOX_COLUMNS)} FROM {inbox} "  # noqa: S608
            f"WHERE {part} AND seq > ? ORDER BY seq"
        )
        self.holder = (
            f"SELECT {key} FROM {sagas} WHERE namespace = ? AND aggregation_id = ? "  # noqa: S608
            f"AND active AND {key} <> ?"
        )
        self.first_in_queue = (
            f"SELECT {key} FROM {sagas} WHERE namespace = ? AND aggregation_id = ? "  # noqa: S608
            f"AND waiting_for = 'key' ORDER BY created_at, {key} LIMIT 1"
        )
        self.call = (
            f"UPDATE {sagas} SET {due} = ? WHERE {one} AND worker IS NULL "  # noqa: S608
            f"AND ({due} IS NULL OR {due} > ?)"
        )
        self.aggregate = f"SELECT aggregation_id FROM {sagas} WHERE {one}"  # noqa: S608
        self.version = f"SELECT version, signals FROM {sagas} WHERE {one}"  # noqa: S608
        self.find_commit = (
            f"SELECT version, fence FROM {history} WHERE {part} AND commit_id = ? LIMIT 1"  # noqa: S608
        )
        self.consume = f"UPDATE {inbox} SET consumed = 1 WHERE {part} AND event_id = ?"  # noqa: S608
        self.knows = f"SELECT 1 FROM {inbox} WHERE {part} AND event_id = ?"  # noqa: S608
        self.target = (
            f"SELECT active OR status NOT IN {ENDED_STATUSES}, worker IS NOT NULL, signals "  # noqa: S608
            f"FROM {sagas} WHERE {one}"
        )
        self.hear = (
            f"UPDATE {sagas} SET signals = signals + 1, "  # noqa: S608
            f"{due} = CASE WHEN worker IS NULL AND waiting_for IS NOT 'key' "
            f"AND ({due} IS NOT NULL OR waiting_for IS NOT NULL) THEN ? ELSE {due} END "
            f"WHERE {one}"
        )
        self.due = f"""
            SELECT {key} FROM {sagas}
             WHERE namespace = :namespace AND direction = :lane AND {due} <= :now
               AND (saga_name, definition_version, fingerprint) IN (
                   SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
                          json_extract(value, '$[2]') FROM json_each(:kinds))
             ORDER BY {due} LIMIT :limit
        """  # noqa: S608
        self.claim = f"""
            UPDATE {sagas}
               SET version = version + 1, fence = fence + 1, reclaimed = worker IS NOT NULL,
                   reclaims = reclaims + (worker IS NOT NULL), worker = ?, claim_id = ?, {due} = ?
             WHERE {one}
            RETURNING {saga}, reclaimed
        """  # noqa: S608
        self.claimed = f"SELECT 1 FROM {sagas} WHERE claim_id = ? LIMIT 1"  # noqa: S608
        self.mine = f"""
            SELECT {saga}, reclaimed FROM {sagas}
             WHERE claim_id = ? AND namespace = ? AND worker = ?
        """  # noqa: S608
        lane = (
            f"SELECT * FROM (SELECT {due} AS due FROM {sagas} "  # noqa: S608
            f"WHERE namespace = :namespace AND direction = {{}} AND {due} > :now "
            f"ORDER BY {due} LIMIT 1)"
        )
        self.soon = f"SELECT min(due) FROM ({lane.format(0)} UNION ALL {lane.format(1)})"  # noqa: S608
        ours = f"{one} AND worker = ? AND fence = ?"
        self.renew = f"UPDATE {sagas} SET {due} = ? WHERE {ours} RETURNING signals"  # noqa: S608
        self.release = (
            f"UPDATE {sagas} SET worker = NULL, claim_id = NULL, reclaimed = 0, "  # noqa: S608
            f"{due} = ? WHERE {ours}"
        )
        self.take = (
            ", fence = fence + (worker IS NOT ?), worker = ?, claim_id = NULL, reclaimed = 0, "
            f"{due} = ?"
        )
        self.give_back = (
            ", worker = NULL, claim_id = NULL, reclaimed = 0, "
            f"{due} = CASE WHEN ? AND signals > ? THEN ? ELSE ? END"
        )
        self._set_state = ", ".join(f"{column} = ?" for column in names.state_columns)
        self._one = one

    def commit(self, lease: str, *, tags: bool, queued: bool = False) -> str:
        """The state, the lease's values, tags, seen, signals, entries, now; then which saga.

        Changes nothing of a saga that is queued unless it is `queued` that is asked for.
        """
        return (
            f"UPDATE {self.names.sagas} SET {self._set_state}{lease}"  # noqa: S608
            f"{', tags = ?' if tags else ''}, version = version + 1, "
            "reclaims = 0, seen = ?, signals = signals + ?, entries = entries + ?, "
            f"updated_at = ? WHERE {self._one} AND version = ? "
            f"{'' if queued else _NOT_QUEUED}"
            "RETURNING version, fence, signals, entries, aggregation_id"
        )
