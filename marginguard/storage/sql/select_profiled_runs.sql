-- How the newest $2 executions that were not skipped went, with the seconds of each phase; of
-- guard $1 where it is not null.
SELECT id, guard_id, status, started_at, duration_s, error_code, error_type, error, phases::text
FROM executions
WHERE status <> 'skipped' AND ($1::text IS NULL OR guard_id = $1)
ORDER BY started_at DESC
LIMIT $2
