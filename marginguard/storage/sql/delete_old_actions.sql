-- Deletes at most $2 actions from before $1, of those that are settled.
DELETE FROM actions
WHERE id IN (
    SELECT id
    FROM actions
    WHERE intended_at < $1 AND status NOT IN ('intended', 'sent', 'unknown')
    ORDER BY intended_at
    LIMIT $2
)
