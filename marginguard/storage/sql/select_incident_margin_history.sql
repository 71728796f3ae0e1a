-- The levels seen since $1 as JSON objects, newest first, at most $2.
SELECT to_jsonb(margin_history)::text
FROM margin_history
WHERE seen_at >= $1
ORDER BY seen_at DESC, account_id, position_id
LIMIT $2
