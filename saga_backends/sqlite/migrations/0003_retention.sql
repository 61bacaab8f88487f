-- Sagas of one name that have ended, for a definition that says how long they are kept.

CREATE INDEX saga_ended_by_name ON saga (namespace, saga_name, created_at) WHERE NOT active;
