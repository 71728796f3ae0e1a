-- Every guard that has a state: what it is, what it has done, and its newest execution.
SELECT
    guard_state.guard_id,
    guard_state.account_id,
    guard_state.armed,
    guard_state.reason,
    guard_state.since,
    guard_state.updated_at,
    (guard_state.pause ->> 'until')::timestamptz AS paused_until,
    guard_state.pause ->> 'by' AS paused_by,
    coalesce(guard_stats.checks, 0) AS checks,
    guard_stats.last_checked_at,
    coalesce(guard_stats.executions, 0) AS executions,
    coalesce(guard_stats.completed, 0) AS completed,
    coalesce(guard_stats.partial, 0) AS partial,
    coalesce(guard_stats.failed, 0) AS failed,
    coalesce(guard_stats.skipped, 0) AS skipped,
    newest.id AS last_execution_id,
    newest.status AS last_execution_status,
    newest.finished_at AS last_execution_at,
    newest.error AS last_execution_error
FROM guard_state
LEFT JOIN guard_stats USING (guard_id)
LEFT JOIN LATERAL (
    SELECT id, status, finished_at, error
    FROM executions
    WHERE executions.guard_id = guard_state.guard_id
    ORDER BY started_at DESC
    LIMIT 1
) AS newest ON true
ORDER BY guard_state.guard_id
