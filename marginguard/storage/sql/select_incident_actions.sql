-- The actions intended since $1, and those not settled, as JSON objects, newest first, at most $2.
SELECT to_jsonb(actions)::text
FROM actions
WHERE intended_at >= $1 OR status IN ('intended', 'sent', 'unknown')
ORDER BY intended_at DESC, id DESC
LIMIT $2
