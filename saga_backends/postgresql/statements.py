"""Every statement of the PostgreSQL store, written once per schema name.

One statement per store call: a commit locks its row by updating it where the version is still the
expected one. Under READ COMMITTED that waits for a concurrent writer and then looks at the row
again, so it is the same compare-and-set as `SELECT ... FOR UPDATE` before it, at less cost.
Claims take their rows with `FOR NO KEY UPDATE SKIP LOCKED`.

Time is the database's `clock_timestamp()`, wrapped in a subselect where an index is to be used.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

from saga_backends.sql.rows import HISTORY_COLUMNS, INBOX_COLUMNS, SAGA_COLUMNS, STATE_COLUMNS

__all__ = ["Statements"]

NOW = "(SELECT clock_timestamp())"

_SAGA = ", ".join(f"s.{column}" for column in SAGA_COLUMNS)
_SET_STATE = ", ".join(f"{column} = ${n}" for n, column in enumerate(STATE_COLUMNS, start=6))
_LAST_STATE = 5 + len(STATE_COLUMNS)

# Outputs travel as one JSON array of rows in the order of HISTORY_COLUMNS; the payloads in it are
# text within the JSON, so that they come back to the letter.
_OUTPUTS = """
    SELECT json_agg(json_build_array({columns}) ORDER BY h.seq)
      FROM {schema}.saga_history h
     WHERE h.namespace = s.namespace AND h.saga_id = s.saga_id AND h.output IS NOT NULL
"""


class Statements:
    """The statements for one schema."""

    def __init__(self, schema: str) -> None:
        """`schema` is a checked identifier."""
        self._schema = schema
        self._outputs = _OUTPUTS.format(
            schema=schema, columns=", ".join(f"h.{column}" for column in HISTORY_COLUMNS)
        )
        self.commit = lru_cache(maxsize=64)(self._commit)
        self.create = lru_cache(maxsize=16)(self._create)

    def _create(self, entries: int, leased: bool) -> str:
        """$1 namespace, $2.. the saga, then its state, due, and its history entries."""
        first_entry = 25 if leased else 26
        due = (
            "clock_timestamp() + $24::interval"
            if leased
            else "least(clock_timestamp() + $25::interval, $24::timestamptz)"
        )
        told = ""
        answer = "SELECT created_at, due_at FROM born"
        if not leased:
            channel = first_entry + 9 * entries
            told = f""", told AS (
            SELECT pg_notify(${channel}::text, $1) FROM born WHERE due_at <= clock_timestamp()
        )"""  # noqa: S608
            answer = "SELECT created_at, due_at, (SELECT count(*) FROM told) FROM born"
        return f"""
        WITH born AS (
            INSERT INTO {self._schema}.saga (
                namespace, saga_id, saga_name, definition_version, fingerprint, data,
                aggregation_id, trace_id, tags, {", ".join(STATE_COLUMNS)},
                version, fence, worker, due_at, entries, created_at, updated_at
            ) VALUES (
                $1, $2, $3, $4, $5, $6, $7, $8, $9,
                {", ".join(f"${n}" for n in range(10, 22))},
                1, CASE WHEN $22::text IS NULL THEN 0 ELSE 1 END, $22, {due}, $23,
                clock_timestamp(), clock_timestamp()
            ) ON CONFLICT DO NOTHING
            RETURNING created_at, due_at, fence
        ){told}{self._entries("born", "NULL::uuid", "1", entries, first_entry, start="0")}
        {answer}
        """  # noqa: S608 - a checked identifier and parameters only

    def _commit(self, lease: str, entries: int, signals_in: int, marks: bool, tags: bool) -> str:
        """$1 namespace, $2 saga, $3 expected version, $4 commit id, $5 seen, $6.. the state.

        `lease` is keep, release, release_quietly or take; its parameters follow the state.
        """
        parameter = _LAST_STATE + 1
        sets = [_SET_STATE]
        if lease in ("release", "release_quietly"):
            due, at = f"${parameter}::interval", f"${parameter + 1}::timestamptz"
            sets.append(
                "worker = NULL, claim_id = NULL, reclaimed = false, due_at = CASE "
                f"WHEN $8::boolean AND signals > $5 - {signals_in} THEN clock_timestamp() "
                f"ELSE least(clock_timestamp() + {due}, {at}) END"
            )
            parameter += 2
        elif lease == "take":
            worker, duration = f"${parameter}::text", f"${parameter + 1}::interval"
            sets.append(
                f"fence = fence + CASE WHEN worker IS DISTINCT FROM {worker} THEN 1 ELSE 0 END, "
                f"worker = {worker}, claim_id = NULL, reclaimed = false, "
                f"due_at = clock_timestamp() + {duration}"
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
            UPDATE {self._schema}.saga
               SET {", ".join(sets)},
                   version = version + 1, reclaims = 0, seen = $5,
                   signals = signals + {signals_in}, entries = entries + {entries},
                   updated_at = clock_timestamp()
             WHERE namespace = $1 AND saga_id = $2 AND version = $3
            RETURNING version, fence, signals, entries, due_at
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
            INSERT INTO {self._schema}.saga_inbox
                (namespace, saga_id, seq, at, event_id, kind, payload, consumed)
            SELECT $1, $2, moved.signals - {signals_in} + 1 + v.n, clock_timestamp(),
                   v.event_id, v.kind, v.payload, {consumed}
              FROM moved, (VALUES {rows}) AS v (n, event_id, kind, payload)
        )""")  # noqa: S608
        if marks:
            parts.append(f""", used AS (
            UPDATE {self._schema}.saga_inbox SET consumed = true
             WHERE namespace = $1 AND saga_id = $2 AND event_id = ANY(${parameter}::text[])
               AND EXISTS (SELECT 1 FROM moved)
        )""")  # noqa: S608
            parameter += 1
        if lease == "release":
            parts.append(f""", told AS (
            SELECT pg_notify(${parameter}::text, $1) FROM moved
             WHERE due_at <= clock_timestamp()
        )
        SELECT version, fence, signals, (SELECT count(*) FROM told) FROM moved""")  # noqa: S608
        else:
            parts.append("\n        SELECT version, fence, signals FROM moved")
        return "".join(parts)

    def _entries(
        self, source: str, commit: str, version: str, count: int, first: int, start: str = ""
    ) -> str:
        if not count:
            return ""
        casts = ("text", "text", "integer", "text", "text", "text", "text", "text", "text")
        rows = ", ".join(
            "("
            + f"{n + 1}, "
            + ", ".join(f"${first + 9 * n + k}::{cast}" for k, cast in enumerate(casts))
            + ")"
            for n in range(count)
        )
        base = start or f"{source}.entries - {count}"
        return f""", told_on AS (
            INSERT INTO {self._schema}.saga_history
                (namespace, saga_id, seq, commit_id, version, fence, at, kind, step_id, attempt,
                 input, output, error, error_code, actor, reason)
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
        SELECT s.version, s.signals, h.version, h.fence
          FROM {self._schema}.saga s
          LEFT JOIN LATERAL (
              SELECT version, fence FROM {self._schema}.saga_history
               WHERE namespace = $1 AND saga_id = $2 AND commit_id = $3 LIMIT 1) h ON true
         WHERE s.namespace = $1 AND s.saga_id = $2
        """  # noqa: S608

    @cached_property
    def load(self) -> str:
        return f"""
        SELECT {_SAGA}, clock_timestamp(), ({self._outputs})
          FROM {self._schema}.saga s WHERE s.namespace = $1 AND s.saga_id = $2
        """  # noqa: S608

    @cached_property
    def active_holder(self) -> str:
        return f"""
        SELECT saga_id FROM {self._schema}.saga
         WHERE namespace = $1 AND aggregation_id = $2 AND active
        """  # noqa: S608

    @cached_property
    def history(self) -> str:
        return f"""
        SELECT {", ".join(HISTORY_COLUMNS)} FROM {self._schema}.saga_history
         WHERE namespace = $1 AND saga_id = $2 AND seq > $3 ORDER BY seq LIMIT $4
        """  # noqa: S608

    @cached_property
    def claim(self) -> str:
        """$1 namespace, $2 worker, $3 claim, $4 limit, $5 lease, $6-8 kinds, $9 favoured lane.

        Every row has the claimed saga, or nulls in it when there was none, and `next_due`.
        """
        pick = f"""
            SELECT s.saga_id, s.worker IS NOT NULL AS held FROM {self._schema}.saga s
             WHERE s.namespace = $1 AND s.direction = {{lane}} AND s.due_at <= {NOW}
               AND (s.saga_name, s.definition_version, s.fingerprint) IN
                   (SELECT * FROM unnest($6::text[], $7::text[], $8::text[]))
               AND NOT EXISTS (SELECT 1 FROM mine) {{but}}
             ORDER BY s.due_at LIMIT {{limit}} FOR NO KEY UPDATE SKIP LOCKED
        """  # noqa: S608
        favoured = pick.format(lane="$9::smallint", but="", limit="($4::integer + 1) / 2")
        other = pick.format(
            lane="1 - $9::smallint",
            but="",
            limit="$4::integer - (SELECT count(*) FROM favoured)",
        )
        rest = pick.format(
            lane="$9::smallint",
            but="AND s.saga_id NOT IN (SELECT saga_id FROM favoured)",
            limit="$4::integer - (SELECT count(*) FROM favoured) - (SELECT count(*) FROM other)",
        )
        return f"""
        WITH mine AS (
            SELECT saga_id FROM {self._schema}.saga
             WHERE claim_id = $3 AND namespace = $1 AND worker = $2
        ), favoured AS ({favoured}), other AS ({other}), rest AS ({rest}),
        picked AS (
            SELECT * FROM favoured UNION ALL SELECT * FROM other UNION ALL SELECT * FROM rest
        ), taken AS (
            UPDATE {self._schema}.saga s
               SET version = s.version + 1, fence = s.fence + 1, worker = $2, claim_id = $3,
                   due_at = clock_timestamp() + $5::interval, reclaimed = picked.held,
                   reclaims = s.reclaims + CASE WHEN picked.held THEN 1 ELSE 0 END
              FROM picked WHERE s.namespace = $1 AND s.saga_id = picked.saga_id
            RETURNING s.*
        ), held AS (
            SELECT * FROM taken
            UNION ALL
            SELECT s.* FROM {self._schema}.saga s JOIN mine USING (saga_id)
             WHERE s.namespace = $1
        ), soon AS (
            SELECT least(
                (SELECT due_at FROM {self._schema}.saga WHERE namespace = $1 AND direction = 0
                    AND due_at > {NOW} ORDER BY due_at LIMIT 1),
                (SELECT due_at FROM {self._schema}.saga WHERE namespace = $1 AND direction = 1
                    AND due_at > {NOW} ORDER BY due_at LIMIT 1)) - clock_timestamp() AS pause
        )
        SELECT {_SAGA}, clock_timestamp(), ({self._outputs}), s.reclaimed, soon.pause
          FROM soon LEFT JOIN held s ON true ORDER BY s.direction, s.created_at
        """  # noqa: S608

    @cached_property
    def renew(self) -> str:
        return f"""
        UPDATE {self._schema}.saga s SET due_at = clock_timestamp() + $5::interval
          FROM unnest($3::uuid[], $4::bigint[]) AS h (saga_id, fence)
         WHERE s.namespace = $1 AND s.saga_id = h.saga_id AND s.worker = $2 AND s.fence = h.fence
        RETURNING s.saga_id, s.signals
        """  # noqa: S608

    @cached_property
    def release(self) -> str:
        return f"""
        WITH freed AS (
            UPDATE {self._schema}.saga s
               SET worker = NULL, claim_id = NULL, reclaimed = false,
                   due_at = clock_timestamp() + $5::interval
              FROM unnest($3::uuid[], $4::bigint[]) AS h (saga_id, fence)
             WHERE s.namespace = $1 AND s.saga_id = h.saga_id AND s.worker = $2
               AND s.fence = h.fence
            RETURNING 1
        ), told AS (
            SELECT pg_notify($6::text, $1)
             WHERE $5::interval = interval '0' AND EXISTS (SELECT 1 FROM freed)
        )
        SELECT (SELECT count(*) FROM freed), (SELECT count(*) FROM told)
        """  # noqa: S608

    @cached_property
    def signal(self) -> str:
        """$1 namespace, $2 saga, $3 event id, $4 kind, $5 payload, $6 channel."""
        return f"""
        WITH target AS (
            SELECT active, worker, signals,
                   worker IS NULL AND (due_at IS NOT NULL OR waiting_for IS NOT NULL) AS wakes
              FROM {self._schema}.saga WHERE namespace = $1 AND saga_id = $2
               FOR NO KEY UPDATE
        ), kept AS (
            INSERT INTO {self._schema}.saga_inbox
                (namespace, saga_id, seq, at, event_id, kind, payload)
            SELECT $1, $2, target.signals + 1, clock_timestamp(), $3, $4, $5
              FROM target WHERE active
            ON CONFLICT (namespace, saga_id, event_id) DO NOTHING
            RETURNING 1
        ), raised AS (
            UPDATE {self._schema}.saga s
               SET signals = s.signals + 1,
                   due_at = CASE WHEN target.wakes THEN clock_timestamp() ELSE s.due_at END
              FROM target, kept WHERE s.namespace = $1 AND s.saga_id = $2
            RETURNING target.wakes
        ), told AS (
            SELECT pg_notify($6::text, $1) FROM raised WHERE wakes
        )
        SELECT target.active, target.worker IS NOT NULL, (SELECT count(*) FROM kept),
               (SELECT count(*) FROM raised), (SELECT count(*) FROM told)
          FROM target
        """  # noqa: S608

    @cached_property
    def inbox(self) -> str:
        return f"""
        SELECT {", ".join(INBOX_COLUMNS)} FROM {self._schema}.saga_inbox
         WHERE namespace = $1 AND saga_id = $2 AND seq > $3 ORDER BY seq
        """  # noqa: S608
