"""Every statement of the PostgreSQL store, written once per set of tables.

One statement per store call: a commit locks its row by updating it where the version is still the
expected one. Under READ COMMITTED that waits for a concurrent writer and then looks at the row
again, so it is the same compare-and-set as `SELECT ... FOR UPDATE` before it, at less cost.

Time is the database's `clock_timestamp()`. Only a creation takes `statement_timestamp()`: two
columns, and the answer, must say the same.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

from saga_backends.postgresql.work_statements import FIRST_IN_QUEUE, WorkStatements
from saga_backends.sql.names import Names
from saga_backends.sql.rows import (
    ENDED_STATUSES,
    HISTORY_COLUMNS,
    INBOX_COLUMNS,
    STATE_COLUMNS,
)

__all__ = ["Statements", "names_in"]

_LAST_STATE = 5 + len(STATE_COLUMNS)
assert (STATE_COLUMNS[0], STATE_COLUMNS[2]) == ("status", "active")  # noqa: S101 - $6, $8

# Outputs travel as one JSON array of rows in the order of HISTORY_COLUMNS; the payloads in it are
# text within the JSON, so that they come back to the letter. Text, too, is what comes back: the
# driver may have been told to decode JSON.
_OUTPUTS = """
    SELECT json_agg(json_build_array({columns}) ORDER BY h.seq)::text
      FROM {names.history} h
     WHERE h.namespace = s.namespace AND h.saga_id = s.{names.saga_id} AND h.output IS NOT NULL
"""


def names_in(schema: str) -> Names:
    """Return the store's own tables in a schema, a checked identifier."""
    return Names(
        sagas=f"{schema}.saga", history=f"{schema}.saga_history", inbox=f"{schema}.saga_inbox"
    )


class Statements(WorkStatements):
    """The statements for one set of tables."""

    def __init__(self, names: Names, *, notifies: bool = True) -> None:
        """`notifies` tells whether somebody may listen for wake-ups."""
        self.names = names
        self.notifies = notifies
        self._sagas, self._history, self._inbox = names.sagas, names.history, names.inbox
        self._id, self._due = names.saga_id, names.due_at
        self._saga = ", ".join(f"s.{column}" for column in names.saga_columns)
        self._set_state = ", ".join(
            f"{column} = ${n}" for n, column in enumerate(names.state_columns, start=6)
        )
        self._outputs = _OUTPUTS.format(
            names=names, columns=", ".join(f"h.{column}" for column in HISTORY_COLUMNS)
        )
        self.commit = lru_cache(maxsize=64)(self._commit)
        self.create = lru_cache(maxsize=16)(self._create)

    def _create(self, entries: int, leased: bool) -> str:
        """$1 namespace, $2.. the saga, its state, due, history entries, channel, own values."""
        first_entry = 25 if leased else 26
        due = (
            "clock_timestamp() + $24::interval"
            if leased
            else "least(clock_timestamp() + $25::interval, $24::timestamptz)"
        )
        told = ""
        answer = "SELECT created_at, due_at FROM born"
        last = first_entry + 9 * entries
        if not leased and self.notifies:
            channel = last
            last += 1
            told = f""", told AS (
            SELECT pg_notify(${channel}::text, $1) FROM born WHERE due_at <= clock_timestamp()
        )"""  # noqa: S608
            answer = "SELECT created_at, due_at, (SELECT count(*) FROM told) FROM born"
        own = "".join(f", {column}" for column in self.names.own_columns)
        own_places = "".join(
            f", {place}" for place in self.names.own_places(lambda n: f"${last + n}")
        )
        insert = f"""
            INSERT INTO {self._sagas} (
                namespace, {self._id}, saga_name, definition_version, fingerprint, data,
                aggregation_id, trace_id, tags, {", ".join(self.names.state_columns)},
                version, fence, worker, {self._due}, entries, created_at, updated_at{own}
            ) VALUES (
                $1, $2, $3, $4, $5, $6, $7, $8, $9,
                {", ".join(f"${n}" for n in range(10, 22))},
                1, CASE WHEN $22::text IS NULL THEN 0 ELSE 1 END, $22, {due}, $23,
                statement_timestamp(), statement_timestamp(){own_places}
            ) ON CONFLICT DO NOTHING
            RETURNING created_at, {self._due} AS due_at, fence
        """  # noqa: S608 - a checked identifier and parameters only
        if not entries and not told:
            return insert
        history = self._entries("born", "NULL::uuid", "1", entries, first_entry, start="0")
        return f"""
        WITH born AS ({insert}){told}{history}
        {answer}
        """

    def _commit(
        self, lease: str, entries: int, signals_in: int, marks: bool, tags: bool, key: str = ""
    ) -> str:
        """$1 namespace, $2 saga, $3 expected version, $4 commit id, $5 seen, $6.. the state.

        `lease` is keep, release, release_quietly or take; its parameters follow the state. `key`
        is free for a saga that gives its aggregate up: the first in the queue is called. It is
        end for one that others have never waited for: that spares it looking. It is queue for one
        that is or was queued, of which no other form changes anything.
        """
        parameter = _LAST_STATE + 1
        sets = [self._set_state]
        goes_on = f"($8::boolean OR $6 NOT IN {ENDED_STATUSES})" if key else "$8::boolean"
        where = "AND waiting_for IS DISTINCT FROM 'key'"
        if key == "free":
            where += f"""
               AND (waiters = 0 OR waiters = (
                   SELECT f.waiters FROM {self._sagas} f
                    WHERE f.namespace = $1 AND f.{self._id} = $2))"""  # noqa: S608
        elif key == "end":
            where += " AND waiters = 0"
        elif key == "queue":
            where = ""
            sets.append("waiters = waiters + $8::boolean::integer")
        if lease in ("release", "release_quietly"):
            due, at = f"${parameter}::interval", f"${parameter + 1}::timestamptz"
            sets.append(
                f"worker = NULL, claim_id = NULL, reclaimed = false, {self._due} = CASE "
                f"WHEN {goes_on} AND signals > $5 - {signals_in} THEN clock_timestamp() "
                f"ELSE least(clock_timestamp() + {due}, {at}) END"
            )
            parameter += 2
        elif lease == "take":
            worker, duration = f"${parameter}::text", f"${parameter + 1}::interval"
            sets.append(
                f"fence = fence + CASE WHEN worker IS DISTINCT FROM {worker} THEN 1 ELSE 0 END, "
                f"worker = {worker}, claim_id = NULL, reclaimed = false, "
                f"{self._due} = clock_timestamp() + {duration}"
            )
            parameter += 2
        if tags:
            sets.append(f"tags = ${parameter}::text[]")
            parameter += 1
        first_entry = parameter
        parameter += entries * 9
        parts = [
            f"""
        WITH moved AS (
            UPDATE {self._sagas}
               SET {", ".join(sets)},
                   version = version + 1, reclaims = 0, seen = $5,
                   signals = signals + {signals_in}, entries = entries + {entries},
                   updated_at = clock_timestamp()
             WHERE namespace = $1 AND {self._id} = $2 AND version = $3 {where}
            RETURNING version, fence, signals, entries, {self._due} AS due_at,
                      waiters, aggregation_id
        )""",  # noqa: S608 - a checked identifier and parameters only
            self._entries("moved", "$4::uuid", "version", entries, first_entry),
        ]
        if signals_in:
            rows = ", ".join(
                f"({n}, ${parameter + 3 * n}::text, ${parameter + 3 * n + 1}::text, "
                f"${parameter + 3 * n + 2}::text)"
                for n in range(signals_in)
            )
            parameter += 3 * signals_in
            consumed = f"v.event_id = ANY(${parameter}::text[])" if marks else "false"
            parts.append(f""", heard AS (
            INSERT INTO {self._inbox}
                (namespace, saga_id, seq, at, event_id, kind, payload, consumed)
            SELECT $1, $2, moved.signals - {signals_in} + 1 + v.n, clock_timestamp(),
                   v.event_id, v.kind, v.payload, {consumed}
              FROM moved, (VALUES {rows}) AS v (n, event_id, kind, payload)
        )""")  # noqa: S608
        if marks:
            parts.append(f""", used AS (
            UPDATE {self._inbox} SET consumed = true
             WHERE namespace = $1 AND saga_id = $2 AND event_id = ANY(${parameter}::text[])
               AND EXISTS (SELECT 1 FROM moved)
        )""")  # noqa: S608
            parameter += 1
        if key == "free":
            first = FIRST_IN_QUEUE.format(names=self.names, key="moved.aggregation_id")
            parts.append(f""", called AS (
            UPDATE {self._sagas} SET {self._due} = clock_timestamp()
             WHERE namespace = $1 AND waiting_for = 'key' AND worker IS NULL
               AND ({self._due} IS NULL OR {self._due} > clock_timestamp())
               AND {self._id} = (
                   SELECT first.{self._id} FROM moved, LATERAL ({first}) first
                    WHERE moved.waiters > 0 AND NOT EXISTS (
                       SELECT 1 FROM {self._sagas} h
                        WHERE h.namespace = $1 AND h.aggregation_id = moved.aggregation_id
                          AND h.active AND h.{self._id} <> $2))
            RETURNING 1
        )""")  # noqa: S608
        woken = ["SELECT 1 FROM moved WHERE due_at <= clock_timestamp()"] * (lease == "release")
        woken += ["SELECT 1 FROM called"] * (key == "free")
        if woken and self.notifies:
            parts.append(f""", told AS (
            SELECT pg_notify(${parameter}::text, $1) FROM ({" UNION ALL ".join(woken)}) woken
        )
        SELECT version, fence, signals, waiters, (SELECT count(*) FROM told) FROM moved""")  # noqa: S608
        else:
            parts.append("\n        SELECT version, fence, signals, waiters FROM moved")
        return "".join(parts)

    def _entries(
        self, source: str, commit: str, version: str, count: int, first: int, start: str = ""
    ) -> str:
        if not count:
            return ""
        casts = ("text", "text", "integer", "text", "text", "text", "text", "text", "text")
        places = [
            ", ".join(f"${first + 9 * n + k}::{cast}" for k, cast in enumerate(casts))
            for n in range(count)
        ]
        base = start or f"{source}.entries - {count}"
        insert = f"""
            INSERT INTO {self._history}
                (namespace, saga_id, seq, commit_id, version, fence, at, kind, step_id, attempt,
                 input, output, error, error_code, actor, reason)"""
        if count == 1:  # the common one: a join would cost the server more than the insert
            return f""", told_on AS ({insert}
            SELECT $1, $2, {base} + 1, {commit}, {version}, fence, clock_timestamp(), {places[0]}
              FROM {source}
        )"""  # noqa: S608
        rows = ", ".join(f"({n}, {values})" for n, values in enumerate(places, start=1))
        return f""", told_on AS ({insert}
            SELECT $1, $2, {base} + v.n, {commit}, {version}, fence, clock_timestamp(),
                   v.kind, v.step_id, v.attempt, v.input, v.output, v.error, v.error_code,
                   v.actor, v.reason
              FROM {source}, (VALUES {rows}) AS v
                   (n, kind, step_id, attempt, input, output, error, error_code, actor, reason)
        )"""  # noqa: S608

    @cached_property
    def find_commit(self) -> str:
        """$1 namespace, $2 saga, $3 commit: the row now, and what the commit had made, if any."""
        return f"""
        SELECT s.version, s.signals, h.version, h.fence, s.waiting_for = 'key'
          FROM {self._sagas} s
          LEFT JOIN LATERAL (
              SELECT version, fence FROM {self._history}
               WHERE namespace = $1 AND saga_id = $2 AND commit_id = $3 LIMIT 1) h ON true
         WHERE s.namespace = $1 AND s.{self._id} = $2
        """  # noqa: S608

    @cached_property
    def wait_for(self) -> str:
        """$1 namespace, $2 saga: wait until nobody holds its row."""
        return f"""
        SELECT 1 FROM {self._sagas} WHERE namespace = $1 AND {self._id} = $2 FOR NO KEY UPDATE
        """  # noqa: S608

    @cached_property
    def identity(self) -> str:
        """Tell a server, its database, and the table there that holds the sagas."""
        return f"""
        SELECT pg_postmaster_start_time(), current_database(), to_regclass('{self._sagas}')::oid
        """

    @cached_property
    def load(self) -> str:
        return f"""
        SELECT {self._saga}, clock_timestamp(), ({self._outputs})
          FROM {self._sagas} s WHERE s.namespace = $1 AND s.{self._id} = $2
        """  # noqa: S608

    @cached_property
    def active_holder(self) -> str:
        return f"""
        SELECT {self._id} FROM {self._sagas}
         WHERE namespace = $1 AND aggregation_id = $2 AND active
        """  # noqa: S608

    @cached_property
    def history(self) -> str:
        return f"""
        SELECT {", ".join(HISTORY_COLUMNS)} FROM {self._history}
         WHERE namespace = $1 AND saga_id = $2 AND seq > $3 ORDER BY seq LIMIT $4
        """  # noqa: S608

    @cached_property
    def signal(self) -> str:
        """$1 namespace, $2 saga, $3 event id, $4 kind, $5 payload, $6 channel."""
        return f"""
        WITH target AS (
            SELECT active OR status NOT IN {ENDED_STATUSES} AS active, worker, signals,
                   worker IS NULL AND waiting_for IS DISTINCT FROM 'key'
                   AND ({self._due} IS NOT NULL OR waiting_for IS NOT NULL) AS wakes
              FROM {self._sagas} WHERE namespace = $1 AND {self._id} = $2
               FOR NO KEY UPDATE
        ), kept AS (
            INSERT INTO {self._inbox}
                (namespace, saga_id, seq, at, event_id, kind, payload)
            SELECT $1, $2, target.signals + 1, clock_timestamp(), $3, $4, $5
              FROM target WHERE active
            ON CONFLICT (saga_id, event_id, namespace) DO NOTHING
            RETURNING 1
        ), raised AS (
            UPDATE {self._sagas} s
               SET signals = s.signals + 1,
                   {self._due} = CASE WHEN target.wakes THEN clock_timestamp()
                                      ELSE s.{self._due} END
              FROM target, kept WHERE s.namespace = $1 AND s.{self._id} = $2
            RETURNING target.wakes
        ), told AS (
            SELECT {self._notify("$6")} FROM raised WHERE wakes
        )
        SELECT target.active, target.worker IS NOT NULL, (SELECT count(*) FROM kept),
               NOT target.active AND EXISTS (
                   SELECT 1 FROM {self._inbox}
                    WHERE namespace = $1 AND saga_id = $2 AND event_id = $3
               ),
               (SELECT count(*) FROM raised), (SELECT count(*) FROM told)
          FROM target
        """  # noqa: S608

    @cached_property
    def inbox(self) -> str:
        return f"""
        SELECT {", ".join(INBOX_COLUMNS)} FROM {self._inbox}
         WHERE namespace = $1 AND saga_id = $2 AND seq > $3 ORDER BY seq
        """  # noqa: S608
