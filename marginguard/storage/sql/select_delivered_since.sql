SELECT user_id, channel, settled_at
FROM notifications
WHERE status = 'delivered' AND settled_at >= $1 AND channel <> 'log'
ORDER BY settled_at
