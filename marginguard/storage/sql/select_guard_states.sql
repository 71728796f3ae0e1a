-- All guard states, as a JSON array.
SELECT coalesce(jsonb_agg(to_jsonb(guard_state) ORDER BY guard_id), '[]')::text FROM guard_state
