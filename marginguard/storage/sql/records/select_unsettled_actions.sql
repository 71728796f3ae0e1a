SELECT coalesce(jsonb_agg(to_jsonb(actions) ORDER BY intended_at), '[]')::text
FROM actions
WHERE settled_at IS NULL
