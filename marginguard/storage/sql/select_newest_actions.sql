-- The newest $1 actions, as a JSON array, newest first.
SELECT coalesce(jsonb_agg(to_jsonb(newest) ORDER BY intended_at DESC, id DESC), '[]')::text
FROM (SELECT * FROM actions ORDER BY intended_at DESC, id DESC LIMIT $1) AS newest
