-- $1: a JSON array of guard states, each guard once; the newest wins.
INSERT INTO guard_state (
    guard_id, account_id, armed, reason, since, memory, updated_at, pause
)
SELECT
    guard_id, account_id, armed, reason, since, memory, updated_at, pause
FROM jsonb_populate_recordset(NULL::guard_state, $1::text::jsonb)
ON CONFLICT (guard_id) DO UPDATE SET
    account_id = excluded.account_id,
    armed = excluded.armed,
    reason = excluded.reason,
    since = excluded.since,
    memory = excluded.memory,
    updated_at = excluded.updated_at,
    pause = excluded.pause
WHERE guard_state.updated_at <= excluded.updated_at
