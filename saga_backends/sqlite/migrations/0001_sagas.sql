-- Sagas, what happened to them, and what was sent to them. Times are microseconds since 1970, UTC.

CREATE TABLE saga (
    namespace          TEXT    NOT NULL,
    saga_id            TEXT    NOT NULL,
    saga_name          TEXT    NOT NULL,
    definition_version TEXT    NOT NULL,
    fingerprint        TEXT    NOT NULL,
    data               TEXT    NOT NULL,
    aggregation_id     TEXT,
    trace_id           TEXT,
    tags               TEXT    NOT NULL DEFAULT '[]',
    status             TEXT    NOT NULL,
    direction          INTEGER NOT NULL,
    active             INTEGER NOT NULL,
    step_id            TEXT,
    step_index         INTEGER NOT NULL,
    step_input         TEXT,
    token              TEXT,
    generation         INTEGER NOT NULL,
    attempt            INTEGER NOT NULL,
    waiting_for        TEXT,
    last_error         TEXT,
    error_code         TEXT,
    version            INTEGER NOT NULL,
    fence              INTEGER NOT NULL,
    worker             TEXT,
    claim_id           TEXT,
    reclaimed          INTEGER NOT NULL DEFAULT 0,
    -- The lease's end while there is a worker, else when the saga is looked at again.
    due_at             INTEGER,
    signals            INTEGER NOT NULL DEFAULT 0,
    seen               INTEGER NOT NULL DEFAULT 0,
    reclaims           INTEGER NOT NULL DEFAULT 0,
    entries            INTEGER NOT NULL DEFAULT 0,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    PRIMARY KEY (namespace, saga_id),
    CONSTRAINT no_stranded_saga CHECK (
        NOT active OR status IN ('STUCK', 'PAUSED') OR due_at IS NOT NULL OR waiting_for IS NOT NULL
    )
);

CREATE UNIQUE INDEX saga_active_aggregate
    ON saga (namespace, aggregation_id) WHERE active AND aggregation_id IS NOT NULL;
CREATE INDEX saga_due ON saga (namespace, direction, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX saga_claim ON saga (claim_id) WHERE claim_id IS NOT NULL;

CREATE TABLE saga_history (
    namespace  TEXT    NOT NULL,
    saga_id    TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    commit_id  TEXT,
    version    INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    step_id    TEXT,
    attempt    INTEGER NOT NULL,
    input      TEXT,
    output     TEXT,
    error      TEXT,
    error_code TEXT,
    actor      TEXT,
    reason     TEXT,
    PRIMARY KEY (namespace, saga_id, seq)
) WITHOUT ROWID;

CREATE TABLE saga_inbox (
    namespace TEXT    NOT NULL,
    saga_id   TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    event_id  TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    payload   TEXT    NOT NULL,
    consumed  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, saga_id, seq),
    UNIQUE (namespace, saga_id, event_id)
) WITHOUT ROWID;
