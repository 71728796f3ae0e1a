SELECT
    state.guard_id,
    state.account_id,
    state.armed,
    state.reason,
    state.since,
    stats.executions,
    stats.checks,
    greatest(stats.last_checked_at, stats.last_execution) AS last_looked_at,
    newest.id AS execution_id,
    newest.status AS execution_status,
    newest.started_at AS execution_started_at,
    newest.error AS execution_error
FROM guard_state AS state
LEFT JOIN guard_stats AS stats USING (guard_id)
LEFT JOIN LATERAL (
    SELECT id, status, started_at, error
    FROM executions
    WHERE executions.guard_id = state.guard_id
    ORDER BY started_at DESC
    LIMIT 1
) AS newest ON true
ORDER BY state.armed = 'armed', state.guard_id
