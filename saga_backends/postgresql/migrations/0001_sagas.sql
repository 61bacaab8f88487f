-- Sagas, what happened to them, and what was sent to them.
-- {schema} is replaced by the schema's name, a checked identifier.

CREATE TABLE {schema}.saga (
    namespace          text        COLLATE "C" NOT NULL,
    saga_id            uuid        NOT NULL,
    saga_name          text        NOT NULL,
    definition_version text        NOT NULL,
    fingerprint        text        NOT NULL,
    data               text        NOT NULL,
    aggregation_id     text,
    trace_id           text,
    tags               text[]      NOT NULL DEFAULT '{}',
    -- What transitions rewrite. The columns that change at every step are in no index, so that
    -- such an update stays within its page (HOT).
    status             text        NOT NULL,
    direction          smallint    NOT NULL,
    active             boolean     NOT NULL,
    step_id            text,
    step_index         integer     NOT NULL,
    step_input         text,
    token              uuid,
    generation         integer     NOT NULL,
    attempt            integer     NOT NULL,
    waiting_for        text,
    last_error         text,
    error_code         text,
    version            bigint      NOT NULL,
    fence              bigint      NOT NULL,
    worker             text,
    claim_id           uuid,
    reclaimed          boolean     NOT NULL DEFAULT false,
    -- The lease's end while there is a worker, else when the saga is looked at again.
    due_at             timestamptz,
    signals            integer     NOT NULL DEFAULT 0,
    seen               integer     NOT NULL DEFAULT 0,
    reclaims           integer     NOT NULL DEFAULT 0,
    entries            integer     NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    -- The id first: it alone decides nearly every comparison in the index.
    PRIMARY KEY (saga_id, namespace),
    CONSTRAINT no_stranded_saga CHECK (
        NOT active OR status IN ('STUCK', 'PAUSED') OR due_at IS NOT NULL OR waiting_for IS NOT NULL
    )
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX saga_active_aggregate
    ON {schema}.saga (namespace, aggregation_id) WHERE active AND aggregation_id IS NOT NULL;
CREATE INDEX saga_due ON {schema}.saga (namespace, direction, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX saga_claim ON {schema}.saga (claim_id) WHERE claim_id IS NOT NULL;

CREATE TABLE {schema}.saga_history (
    namespace  text        COLLATE "C" NOT NULL,
    saga_id    uuid        NOT NULL,
    seq        integer     NOT NULL,
    commit_id  uuid,
    version    bigint      NOT NULL,
    fence      bigint      NOT NULL,
    at         timestamptz NOT NULL,
    kind       text        NOT NULL,
    step_id    text,
    attempt    integer     NOT NULL,
    input      text,
    output     text,
    error      text,
    error_code text,
    actor      text,
    reason     text,
    PRIMARY KEY (saga_id, seq, namespace)
);

CREATE TABLE {schema}.saga_inbox (
    namespace text        COLLATE "C" NOT NULL,
    saga_id   uuid        NOT NULL,
    seq       integer     NOT NULL,
    at        timestamptz NOT NULL,
    event_id  text        NOT NULL,
    kind      text        NOT NULL,
    payload   text        NOT NULL,
    consumed  boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (saga_id, seq, namespace),
    UNIQUE (saga_id, event_id, namespace)
);
