-- All actions that are not settled, as a JSON array, oldest first.
SELECT coalesce(jsonb_agg(to_jsonb(actions) ORDER BY intended_at, id), '[]')::text
FROM actions
WHERE status IN ('intended', 'sent', 'unknown')
