-- How telling of the positions $2 of account $1 went: the newest $3, oldest first.
SELECT *
FROM (
    SELECT
        id, user_id, channel, kind, severity, status, attempts, created_at, settled_at, subject,
        last_error, action, advice
    FROM notifications
    WHERE account_id = $1 AND position_id = ANY($2::text[])
    ORDER BY created_at DESC
    LIMIT $3
) AS newest
ORDER BY created_at, channel
