-- $1: a JSON array of executions. The counters move only for those that were not there yet, so
-- that a batch whose commit was ambiguous may be written again.
WITH inserted AS (
    INSERT INTO executions (
        id, guard_id, account_id, user_id, status, source, version, dry_run, positions_total,
        positions_requiring_action, positions_succeeded, positions_failed, price, error_code,
        error_type, error, started_at, finished_at, duration_s, results, phases
    )
    SELECT
        id, guard_id, account_id, user_id, status, source, version, dry_run, positions_total,
        positions_requiring_action, positions_succeeded, positions_failed, price, error_code,
        error_type, error, started_at, finished_at, duration_s, results, phases
    FROM jsonb_populate_recordset(NULL::executions, $1::text::jsonb)
    ON CONFLICT (id) DO NOTHING
    RETURNING guard_id, account_id, status, duration_s, finished_at
)
INSERT INTO guard_stats AS stats (
    guard_id, account_id, executions, completed, partial, failed, skipped, total_duration_s,
    last_execution_at
)
SELECT
    guard_id,
    (array_agg(account_id ORDER BY finished_at DESC))[1],
    count(*),
    count(*) FILTER (WHERE status = 'completed'),
    count(*) FILTER (WHERE status = 'partial'),
    count(*) FILTER (WHERE status = 'failed'),
    count(*) FILTER (WHERE status = 'skipped'),
    sum(duration_s),
    max(finished_at)
FROM inserted
GROUP BY guard_id
ON CONFLICT (guard_id) DO UPDATE SET
    account_id = excluded.account_id,
    executions = stats.executions + excluded.executions,
    completed = stats.completed + excluded.completed,
    partial = stats.partial + excluded.partial,
    failed = stats.failed + excluded.failed,
    skipped = stats.skipped + excluded.skipped,
    total_duration_s = stats.total_duration_s + excluded.total_duration_s,
    last_execution_at = greatest(stats.last_execution_at, excluded.last_execution_at)
