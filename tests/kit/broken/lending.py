"""Bugs of transactions that are lent: rows and record part company."""

from __future__ import annotations

from functools import partial

from tests.kit.broken.bug import Bug
from tests.kit.lending import LendingStore

__all__ = ["BUGS"]

_Bug = partial(Bug, of=LendingStore)

BUGS = (
    _Bug(
        "the record is committed alone",
        "_keep",
        "unit.book.extend(unit.rows)",
        "unit.rows.clear()",
        "test_rows_and_record_are_committed_together",
    ),
    _Bug(
        "each row is committed by itself",
        "_write",
        "unit.rows.append(text)",
        "unit.book.append(text)",
        "test_nothing_is_seen_before_the_commit",
    ),
    _Bug(
        "the end of the block commits",
        "_end",
        "    unit.rows = []",
        "    self._keep(unit)",
        "test_block_that_ends_without_a_commit_leaves_nothing",
    ),
    _Bug(
        "the rows are committed first, the record by a second transaction",
        "_commit_lent",
        "    committed = await self.commit(transition)\n    self._keep(unit)\n",
        "    self._keep(unit)\n    committed = await self.commit(transition)\n",
        "test_stale_commit_takes_the_rows_with_it",
    ),
    _Bug(
        "a commit of what had failed is a rollback, and the record is written again alone",
        "_commit_lent",
        'raise TransactionFailedError("a statement had failed", saga_id=transition.saga_id)',
        "unit.rows.clear()",
        "test_statement_that_failed_and_was_swallowed_fails_the_commit_or_is_undone_alone",
    ),
    _Bug(
        "spawned sagas are created before, each by itself",
        "_commit_lent",
        'without a pause."""\n',
        'without a pause."""\n    for new in transition.spawn:\n        await self.create(new)\n',
        "test_spawned_sagas_are_part_of_the_transaction",
    ),
    _Bug(
        "any commit will do for the one that is asked for",
        "recorded",
        "if known == commit_id",
        "if known is not None",
        "test_commit_that_is_on_record_is_found_and_another_is_not",
    ),
    _Bug(
        "a saga of a caller's transaction is there at once",
        "create_in",
        ".append(write)",
        ".append(write())",
        "test_saga_in_a_callers_transaction_comes_with_its_commit",
    ),
    _Bug(
        "a saga of a lent transaction is forgotten",
        "_keep",
        'unit.at["commit"]',
        "()",
        "test_saga_in_a_lent_transaction_comes_and_goes_with_it",
    ),
    _Bug(
        "a saga of a caller's transaction survives its rollback",
        "create_in",
        '"commit"',
        '"end"',
        "test_saga_in_a_callers_transaction_goes_with_its_rollback",
    ),
    _Bug(
        "a refusal rolls back what the caller had written",
        "create_in",
        "    self._check_new(new)\n",
        "    try:\n"
        "        self._check_new(new)\n"
        "    except SagaError:\n"
        "        session.rows.clear()\n"
        "        raise\n",
        "test_refusal_leaves_the_callers_transaction_usable",
    ),
    _Bug(
        "what is no session starts a saga in a transaction of the store's own",
        "create_in",
        "    if not isinstance(session, Unit) or",
        "    if not isinstance(session, Unit):\n        return await self.create(new)\n    if",
        "test_what_is_no_session_is_refused",
    ),
)
