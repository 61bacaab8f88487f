-- Sagas that wait for an aggregate, first come first served, and those that have ended.
-- `created_at` never changes, so neither index costs a commit that goes on.

CREATE INDEX saga_queued
    ON saga (namespace, aggregation_id, created_at, saga_id) WHERE waiting_for = 'key';
CREATE INDEX saga_ended ON saga (namespace, created_at) WHERE NOT active;
