-- How the newest $3 executions from $1 on went, newest first; of guard $2 where it is not null.
SELECT id, guard_id, status, started_at, duration_s, error_code, error_type, error
FROM executions
WHERE started_at >= $1 AND ($2::text IS NULL OR guard_id = $2)
ORDER BY started_at DESC
LIMIT $3
