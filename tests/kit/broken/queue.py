"""Bugs of `claim_due`, `renew`, `release` and `wakeups`."""

from __future__ import annotations

from tests.kit.broken.bug import Bug

__all__ = ["BUGS"]

BUGS = (
    Bug(
        "claim by list, then run",
        "claim_due",
        "        for row in rows:\n",
        "        await asyncio.sleep(0)\n        for row in rows:\n",
        "test_no_saga_is_claimed_twice",
    ),
    Bug(
        "next due is looked up before the claim",
        "claim_due",
        "next_due=self._agenda.next_after(self._now())",
        "next_due=None if records else self._agenda.next_after(self._now())",
        "test_next_due_is_not_later_than_the_leases_just_taken",
    ),
    Bug(
        "a full claim does not say that there may be more",
        "claim_due",
        "next_due=timedelta(0)",
        "next_due=lease",
        "test_next_due_is_zero_while_work_is_left",
    ),
    Bug(
        "lease by the caller's clock",
        "_claim",
        "due_at=self._now() + lease",
        "due_at=datetime.now(tz=self._now().tzinfo) + lease",
        "test_lease_of_a_claim_lasts_from_now",
    ),
    Bug(
        "a claim leaves the fence if the worker is the same",
        "_claim",
        "fence=before.fence + 1",
        "fence=before.fence + (worker != before.worker)",
        "test_expired_lease_is_reclaimed_and_counted",
    ),
    Bug(
        "a claim leaves the version",
        "_claim",
        "            version=before.version + 1,\n",
        "",
        "test_claim_makes_the_worker_holder_under_a_new_fence",
    ),
    Bug(
        "every claim counts as a reclaim",
        "_claim",
        "reclaims=before.reclaims + (before.worker is not None)",
        "reclaims=before.reclaims + 1",
        "test_first_claim_reclaims_nothing",
    ),
    Bug(
        "the limit is one per lane",
        "_pick",
        "mine + other[: limit - len(mine)]",
        "mine + other",
        "test_each_lane_gets_half_and_the_favoured_one_the_odd",
    ),
    Bug(
        "a lane never gets more than half",
        "_pick",
        "max((limit + 1) // 2, limit - len(other))",
        "(limit + 1) // 2",
        "test_limit_is_kept",
    ),
    Bug(
        "the limit comes before the names",
        "_pick",
        "            if _kind(row.record) in only:\n"
        "                found.append(row)\n"
        "                if len(found) == limit:\n"
        "                    break\n",
        "            found.append(row)\n"
        "            if len(found) == limit:\n"
        "                break\n"
        "        found = [row for row in found if _kind(row.record) in only]\n",
        "test_unregistered_sagas_do_not_hide_the_others",
    ),
    Bug(
        "names alone are registered",
        "claim_due",
        "frozenset(only)",
        "frozenset(_kind(row.record) for row in self._rows() "
        "if row.record.saga_name in {one.saga_name for one in only})",
        "test_only_name_version_and_fingerprint_together_are_claimed",
    ),
    Bug(
        "a repeated claim shows what others have taken",
        "_claimed_before",
        "row and row.claim_id == claim_id and row.record.worker == worker",
        "row",
        "test_repeated_claim_leaves_out_what_others_have_taken",
    ),
    Bug(
        "a claim remembers what it has lost, too",
        "_remember",
        "claims[claim_id] = [",
        "claims[claim_id] = claims.get(claim_id, []) + [",
        "test_repeated_claim_that_has_taken_a_saga_anew_returns_it_once",
    ),
    Bug(
        "a lost reply to a claim is not found again",
        "claim_due",
        "rows = self._claimed_before(worker, claim_id)",
        "rows: list[Row] = []",
        "test_repeated_claim_returns_the_same_sagas_and_takes_no_more",
    ),
    Bug(
        "a renewal ignores the fence",
        "renew",
        "self._held(worker, held)",
        "[row for row in self._rows() if row.record.worker == worker and row.record.saga_id in "
        "{one.saga_id for one in held}]",
        "test_renewal_under_an_old_fence_of_ones_own_is_refused",
    ),
    Bug(
        "a renewal raises the version",
        "renew",
        "due_at=self._now() + lease)",
        "due_at=self._now() + lease, version=row.record.version + 1)",
        "test_renewal_moves_the_end_and_nothing_else",
    ),
    Bug(
        "a renewal tells no signals",
        "renew",
        "= row.record.signals",
        "= 0",
        "test_renewal_tells_how_many_signals_there_are",
    ),
    Bug(
        "a release stops at what is lost",
        "release",
        "self._held(worker, held)",
        "list(self._held(worker, held[:1]))",
        "test_many_sagas_are_released_in_one_call",
    ),
    Bug(
        "a release forgets its delay",
        "release",
        "due_at = self._now() + delay",
        "due_at = self._now()",
        "test_release_with_a_delay_is_due_later",
    ),
    Bug(
        "a release raises the fence",
        "release",
        "worker=None, ",
        "worker=None, fence=row.record.fence + 1, ",
        "test_released_saga_is_due_for_others",
    ),
    Bug(
        "a lease that has expired is not renewed",
        "_held",
        "row.record.fence == one.fence",
        "row.record.fence == one.fence and row.record.due_at > self._now()",
        "test_expired_lease_that_nobody_took_is_renewed",
    ),
    Bug(
        "any worker of this fence releases and renews",
        "_held",
        "row.record.worker == worker",
        "row.record.worker",
        "test_release_by_somebody_else_changes_nothing",
    ),
    Bug(
        "the lane is told by the status",
        "_store",
        "record.due_at, record.state.direction",
        "record.due_at, int(record.state.status != 'COMPENSATING')",
        "test_lane_is_the_direction_whatever_the_status",
    ),
    Bug(
        "a large claim takes a part and does not say so",
        "claim_due",
        "self._pick(limit, ",
        "self._pick(min(limit, 32), ",
        "test_large_claim_takes_all_or_says_that_there_is_more",
    ),
    Bug(
        "a lease is never shorter than five minutes",
        "renew",
        "    renewed = {}\n",
        "    renewed = {}\n    lease = max(lease, timedelta(minutes=5))\n",
        "test_renewal_may_bring_the_end_nearer",
    ),
    Bug(
        "the answer to a claim is in any order",
        "claim_due",
        "for row in rows)",
        "for row in sorted(rows, key=lambda row: row.record.created_at))",
        "test_answer_has_the_oldest_due_first",
    ),
    Bug(
        "a claim of nothing takes one",
        "claim_due",
        "    if not rows:\n",
        "    limit = limit or 1\n    if not rows:\n",
        "test_claim_of_nothing_takes_nothing",
    ),
    Bug(
        "a hundred leases at most are renewed and released",
        "_held",
        "for one in held:",
        "for one in held[:100]:",
        "test_renewal_of_all_that_a_worker_drives_leaves_none_out",
    ),
)
