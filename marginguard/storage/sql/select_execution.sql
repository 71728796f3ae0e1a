-- The execution $1 as a JSON array of one, or of none.
SELECT coalesce(jsonb_agg(to_jsonb(executions)), '[]')::text FROM executions WHERE id = $1
