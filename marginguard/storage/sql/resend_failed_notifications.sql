-- $1: those that were given up at or after this; $2: now. The daemon sends what is pending.
UPDATE notifications SET
    status = 'pending',
    attempts = 0,
    next_attempt_at = $2,
    settled_at = NULL,
    resent_at = now(),
    revision = revision + 1
WHERE status = 'failed' AND settled_at >= $1
RETURNING id, user_id, channel
