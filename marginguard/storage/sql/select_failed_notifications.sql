-- The notifications that were given up at $1 or later, newest first.
SELECT
    id, user_id, channel, kind, severity, status, attempts, created_at, settled_at, subject,
    last_error, action, advice
FROM notifications
WHERE status = 'failed' AND settled_at >= $1
ORDER BY created_at DESC, id, user_id, channel
