-- $1: a JSON array of actions, each id once. A record may be written again after newer ones:
-- what is settled is never made unsettled.
INSERT INTO actions (
    id, execution_id, guard_id, account_id, position_id, episode_id, kind, amount, status,
    dry_run, reason, level, threshold, before, intended_at, after, sent_at, settled_at,
    attempts, outcome, exchange_id, client_id, error, proof, frozen, quantity, stop_loss,
    reopening, successor
)
SELECT
    id, execution_id, guard_id, account_id, position_id, episode_id, kind, amount, status,
    dry_run, reason, level, threshold, before, intended_at, after, sent_at, settled_at,
    attempts, outcome, exchange_id, client_id, error, proof, frozen, quantity, stop_loss,
    reopening, successor
FROM jsonb_populate_recordset(NULL::actions, $1::text::jsonb)
ON CONFLICT (id) DO UPDATE SET
    execution_id = excluded.execution_id,
    guard_id = excluded.guard_id,
    account_id = excluded.account_id,
    position_id = excluded.position_id,
    episode_id = excluded.episode_id,
    kind = excluded.kind,
    amount = excluded.amount,
    status = excluded.status,
    dry_run = excluded.dry_run,
    reason = excluded.reason,
    level = excluded.level,
    threshold = excluded.threshold,
    before = excluded.before,
    intended_at = excluded.intended_at,
    after = excluded.after,
    sent_at = excluded.sent_at,
    settled_at = excluded.settled_at,
    attempts = excluded.attempts,
    outcome = excluded.outcome,
    exchange_id = excluded.exchange_id,
    client_id = excluded.client_id,
    error = excluded.error,
    proof = excluded.proof,
    frozen = excluded.frozen,
    quantity = excluded.quantity,
    stop_loss = excluded.stop_loss,
    reopening = excluded.reopening,
    successor = excluded.successor
WHERE actions.status IN ('intended', 'sent', 'unknown')
OR excluded.status NOT IN ('intended', 'sent', 'unknown')
