-- How telling went of the newest $2 notifications from $1 on, newest first.
SELECT
    id, user_id, channel, kind, severity, status, attempts, created_at, settled_at, subject,
    last_error, action, advice
FROM notifications
WHERE created_at >= $1
ORDER BY created_at DESC
LIMIT $2
