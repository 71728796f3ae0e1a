SELECT coalesce(jsonb_agg(to_jsonb(guard_state)), '[]')::text
FROM guard_state
