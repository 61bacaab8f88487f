-- Sagas that wait for an aggregate, first come first served, and those that have ended.
-- {schema} is replaced by the schema's name, a checked identifier.

-- How often a saga was queued, or put back, behind this one. The commit that ends this one looks
-- for the first in the queue only if there is any, and sees by it that its snapshot is too old.
ALTER TABLE {schema}.saga ADD COLUMN waiters integer NOT NULL DEFAULT 0;

-- `created_at` never changes, so that neither index keeps an update from staying in its page.
CREATE INDEX saga_queued
    ON {schema}.saga (namespace, aggregation_id, created_at, saga_id) WHERE waiting_for = 'key';
CREATE INDEX saga_ended ON {schema}.saga (namespace, created_at) WHERE NOT active;
