-- Only a row that is new counts in the statistics, however often it is drained.
WITH inserted AS (
    INSERT INTO executions
    SELECT * FROM jsonb_populate_recordset(NULL::executions, $1::jsonb)
    ON CONFLICT (id) DO NOTHING
    RETURNING *
)
INSERT INTO guard_stats AS stats
    (guard_id, account_id, executions, completed, partial, failed, skipped, duration_s,
     last_execution)
SELECT
    guard_id,
    max(account_id),
    count(*),
    count(*) FILTER (WHERE status = 'completed'),
    count(*) FILTER (WHERE status = 'partial'),
    count(*) FILTER (WHERE status = 'failed'),
    count(*) FILTER (WHERE status = 'skipped'),
    sum(duration_s),
    max(started_at)
FROM inserted
GROUP BY guard_id
ON CONFLICT (guard_id) DO UPDATE SET
    account_id = excluded.account_id,
    executions = stats.executions + excluded.executions,
    completed = stats.completed + excluded.completed,
    partial = stats.partial + excluded.partial,
    failed = stats.failed + excluded.failed,
    skipped = stats.skipped + excluded.skipped,
    duration_s = stats.duration_s + excluded.duration_s,
    last_execution = greatest(stats.last_execution, excluded.last_execution)
