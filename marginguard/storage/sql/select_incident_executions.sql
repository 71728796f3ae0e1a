-- The executions that ended since $1 as JSON objects, newest first, at most $2.
SELECT to_jsonb(executions)::text
FROM executions
WHERE finished_at >= $1
ORDER BY started_at DESC, id DESC
LIMIT $2
