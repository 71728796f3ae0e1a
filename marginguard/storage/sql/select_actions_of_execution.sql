-- The actions of execution $1 as a JSON array, oldest first.
SELECT coalesce(jsonb_agg(to_jsonb(actions) ORDER BY intended_at, id), '[]')::text
FROM actions
WHERE execution_id = $1
