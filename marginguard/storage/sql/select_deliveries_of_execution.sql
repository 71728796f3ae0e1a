-- How telling of execution $1 went, oldest first.
SELECT
    id, user_id, channel, kind, severity, status, attempts, created_at, settled_at, subject,
    last_error, action, advice
FROM notifications
WHERE execution_id = $1
ORDER BY created_at, channel
