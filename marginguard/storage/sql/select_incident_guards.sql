-- Every guard's state and statistics as a JSON object, by id.
SELECT (to_jsonb(guard_state) || jsonb_build_object('stats', to_jsonb(guard_stats)))::text
FROM guard_state
LEFT JOIN guard_stats USING (guard_id)
ORDER BY guard_id
