INSERT INTO guard_state
SELECT * FROM jsonb_populate_recordset(NULL::guard_state, $1::jsonb)
ON CONFLICT (guard_id) DO UPDATE SET
    account_id = excluded.account_id,
    armed = excluded.armed,
    reason = excluded.reason,
    since = excluded.since,
    memory = excluded.memory,
    updated_at = excluded.updated_at
WHERE guard_state.updated_at <= excluded.updated_at
