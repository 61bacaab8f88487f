-- Sagas of one name that have ended, for a definition that says how long they are kept.
-- {schema} is replaced by the schema's name, a checked identifier.

CREATE INDEX saga_ended_by_name ON {schema}.saga (namespace, saga_name, created_at) WHERE NOT active;
