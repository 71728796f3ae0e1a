-- $1: how far to look back; $2: after how many failed attempts a pending one is failing. Users of
-- whom a critical notice failed on every channel, and whom nothing has reached since then.
SELECT user_id, min(failed_at) AS since
FROM (
    SELECT user_id, max(attempted_at) AS failed_at
    FROM notifications
    WHERE severity = 'critical' AND created_at >= $1
    GROUP BY id, user_id
    HAVING bool_and(status = 'failed' OR (status = 'pending' AND attempts >= $2))
) AS shut
WHERE failed_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM notifications AS n
    WHERE n.user_id = shut.user_id AND n.channel <> 'log'
    AND n.status = 'delivered' AND n.settled_at > shut.failed_at
)
GROUP BY user_id
ORDER BY user_id
