-- Deletes at most $3 executions: those that went well from before $1, the others from before $2.
DELETE FROM executions
WHERE id IN (
    SELECT id
    FROM executions
    WHERE started_at < $1 AND (status IN ('completed', 'skipped') OR started_at < $2)
    ORDER BY started_at
    LIMIT $3
)
