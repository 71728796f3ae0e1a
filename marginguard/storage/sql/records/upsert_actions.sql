INSERT INTO actions
SELECT * FROM jsonb_populate_recordset(NULL::actions, $1::jsonb)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status,
    after = excluded.after,
    sent_at = excluded.sent_at,
    settled_at = excluded.settled_at,
    attempts = excluded.attempts,
    outcome = excluded.outcome,
    exchange_id = excluded.exchange_id,
    client_id = excluded.client_id,
    error = excluded.error,
    proof = excluded.proof,
    frozen = excluded.frozen
-- A record drained twice must not undo what is settled.
WHERE actions.settled_at IS NULL OR excluded.settled_at IS NOT NULL
