"""The PostgreSQL store's statements that say who drives what, and who is next.

Claims take their rows with `FOR NO KEY UPDATE SKIP LOCKED`. Time is the database's
`clock_timestamp()`, wrapped in a subselect where an index is to be used.
"""

from __future__ import annotations

from functools import cached_property

from saga_backends.sql.names import Names

__all__ = ["FIRST_IN_QUEUE", "WorkStatements"]

NOW = "(SELECT clock_timestamp())"

FIRST_IN_QUEUE = """
    SELECT w.{names.saga_id} FROM {names.sagas} w
     WHERE w.namespace = $1 AND w.aggregation_id = {key} AND w.waiting_for = 'key'
     ORDER BY w.created_at, w.{names.saga_id} LIMIT 1
"""


class WorkStatements:
    """The part of `Statements` that is about whose turn it is."""

    names: Names
    notifies: bool
    _sagas: str
    _id: str
    _due: str
    _saga: str
    _outputs: str

    def _notify(self, channel: str) -> str:
        return f"pg_notify({channel}::text, $1)" if self.notifies else f"{channel}::text"

    @cached_property
    def claim(self) -> str:
        """$1 namespace, $2 worker, $3 claim, $4 limit, $5 lease, $6-8 kinds, $9 favoured lane.

        Every row has the claimed saga, or nulls in it when there was none, and `next_due`.
        """
        pick = f"""
            SELECT s.{self._id} AS saga_id, s.{self._due} AS due FROM {self._sagas} s
             WHERE s.namespace = $1 AND s.direction = {{lane}} AND s.{self._due} <= {NOW}
               AND (s.saga_name, s.definition_version, s.fingerprint) IN
                   (SELECT * FROM unnest($6::text[], $7::text[], $8::text[]))
               AND NOT EXISTS (SELECT 1 FROM mine) {{but}}
             ORDER BY s.{self._due} LIMIT {{limit}} FOR NO KEY UPDATE SKIP LOCKED
        """  # noqa: S608
        favoured = pick.format(lane="$9::smallint", but="", limit="($4::integer + 1) / 2")
        other = pick.format(
            lane="1 - $9::smallint",
            but="",
            limit="$4::integer - (SELECT count(*) FROM favoured)",
        )
        rest = pick.format(
            lane="$9::smallint",
            but=f"AND s.{self._id} NOT IN (SELECT saga_id FROM favoured)",  # noqa: S608
            limit="$4::integer - (SELECT count(*) FROM favoured) - (SELECT count(*) FROM other)",
        )
        return f"""
        WITH mine AS (
            SELECT {self._id} AS saga_id FROM {self._sagas}
             WHERE claim_id = $3 AND namespace = $1 AND worker = $2
        ), favoured AS ({favoured}), other AS ({other}), rest AS ({rest}),
        picked AS (
            SELECT * FROM favoured UNION ALL SELECT * FROM other UNION ALL SELECT * FROM rest
        ), taken AS (
            UPDATE {self._sagas} s
               SET version = s.version + 1, fence = s.fence + 1, worker = $2, claim_id = $3,
                   {self._due} = clock_timestamp() + $5::interval,
                   reclaimed = s.worker IS NOT NULL,
                   reclaims = s.reclaims + CASE WHEN s.worker IS NOT NULL THEN 1 ELSE 0 END
             -- An array, not a join: the planner would hash the whole table for a join.
             WHERE s.namespace = $1 AND s.{self._id} = ANY (ARRAY(SELECT saga_id FROM picked))
            RETURNING s.*
        ), held AS (
            SELECT * FROM taken
            UNION ALL
            SELECT s.* FROM {self._sagas} s JOIN mine ON mine.saga_id = s.{self._id}
             WHERE s.namespace = $1
        ), soon AS (
            SELECT least(
                (SELECT {self._due} FROM {self._sagas} WHERE namespace = $1 AND direction = 0
                    AND {self._due} > {NOW} ORDER BY {self._due} LIMIT 1),
                (SELECT {self._due} FROM {self._sagas} WHERE namespace = $1 AND direction = 1
                    AND {self._due} > {NOW} ORDER BY {self._due} LIMIT 1)
            ) - clock_timestamp() AS pause
        )
        SELECT {self._saga}, clock_timestamp(), ({self._outputs}), s.reclaimed, soon.pause
          FROM soon LEFT JOIN held s ON true
         ORDER BY s.direction, (SELECT due FROM picked WHERE saga_id = s.{self._id}), s.created_at
        """  # noqa: S608

    @cached_property
    def renew(self) -> str:
        """$1 namespace, $2 worker, $3-4 sagas and fences, $5 lease.

        It waits for no row: while it did, all others would go without, and their commits would
        wait for it. A row that is ours, as far as can be seen, and locked has null signals.
        """
        ours = f"""
            SELECT s.{self._id} AS saga_id
              FROM {self._sagas} s, unnest($3::uuid[], $4::bigint[]) AS h (saga_id, fence)
             WHERE s.namespace = $1 AND s.{self._id} = h.saga_id AND s.worker = $2
               AND s.fence = h.fence
        """  # noqa: S608
        return f"""
        WITH free AS ({ours} FOR NO KEY UPDATE OF s SKIP LOCKED), renewed AS (
            UPDATE {self._sagas} s SET {self._due} = clock_timestamp() + $5::interval
             WHERE s.namespace = $1 AND s.{self._id} = ANY (ARRAY(SELECT saga_id FROM free))
            RETURNING s.{self._id}, s.signals
        )
        SELECT * FROM renewed
        UNION ALL
        SELECT saga_id, NULL FROM ({ours}) o WHERE saga_id <> ALL (ARRAY(SELECT saga_id FROM free))
        """  # noqa: S608

    @cached_property
    def release(self) -> str:
        return f"""
        WITH freed AS (
            UPDATE {self._sagas} s
               SET worker = NULL, claim_id = NULL, reclaimed = false,
                   {self._due} = clock_timestamp() + $5::interval
              FROM unnest($3::uuid[], $4::bigint[]) AS h (saga_id, fence)
             WHERE s.namespace = $1 AND s.{self._id} = h.saga_id AND s.worker = $2
               AND s.fence = h.fence
            RETURNING 1
        ), told AS (
            SELECT {self._notify("$6")}
             WHERE $5::interval = interval '0' AND EXISTS (SELECT 1 FROM freed)
        )
        SELECT (SELECT count(*) FROM freed), (SELECT count(*) FROM told)
        """  # noqa: S608

    @cached_property
    def lock_queue(self) -> str:
        return "SELECT pg_advisory_xact_lock(hashtextextended($1 || chr(31) || $2, 23))"

    @cached_property
    def queued_for(self) -> str:
        return f"""
        SELECT aggregation_id FROM {self._sagas}
         WHERE namespace = $1 AND {self._id} = $2 AND waiting_for = 'key'
        """  # noqa: S608

    @cached_property
    def lock_holder(self) -> str:
        return f"""
        UPDATE {self._sagas} SET waiters = waiters + 1
         WHERE namespace = $1 AND aggregation_id = $2 AND active
        RETURNING {self._id}
        """  # noqa: S608

    @cached_property
    def first_in_queue(self) -> str:
        return FIRST_IN_QUEUE.format(names=self.names, key="$2")

    @cached_property
    def call_next(self) -> str:
        """$1 namespace, $2 aggregate, $3 channel."""
        return f"""
        WITH called AS (
            UPDATE {self._sagas} SET {self._due} = clock_timestamp()
             WHERE namespace = $1 AND waiting_for = 'key' AND worker IS NULL
               AND ({self._due} IS NULL OR {self._due} > clock_timestamp())
               AND {self._id} = ({self.first_in_queue})
               AND NOT EXISTS (
                   SELECT 1 FROM {self._sagas}
                    WHERE namespace = $1 AND aggregation_id = $2 AND active)
            RETURNING {self._id}, {self._due} AS due_at
        ), told AS (
            SELECT {self._notify("$3")} FROM called
        )
        SELECT {self._id}, due_at, (SELECT count(*) FROM told) FROM called
        """  # noqa: S608
