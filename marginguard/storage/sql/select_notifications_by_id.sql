-- How telling of the notices $1 goes or went, newest first.
SELECT
    id, user_id, channel, kind, severity, status, attempts, created_at, settled_at, subject,
    last_error, action, advice
FROM notifications
WHERE id = ANY($1::uuid[])
ORDER BY created_at DESC, id, user_id, channel
