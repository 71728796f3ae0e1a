SELECT
    id, execution_id, guard_id, account_id, position_id, kind, amount, status, dry_run, reason,
    level, threshold, intended_at, settled_at, attempts, proof, error
FROM actions
WHERE $1::text IS NULL OR account_id = $1
ORDER BY intended_at DESC, id DESC
LIMIT $2
