-- $1: how many of the newest settled ones of each channel to judge it by; $2: after how many
-- failed attempts a pending one is failing.
WITH channels AS (
    SELECT DISTINCT channel FROM notifications WHERE channel <> 'log'
)

SELECT
    channels.channel,
    judged.settled,
    judged.delivered,
    waiting.pending,
    waiting.failing,
    last_delivery.at AS last_delivery_at,
    last_failure.at AS last_failure_at,
    last_failure.error AS last_error,
    last_failure.action,
    last_failure.advice
FROM channels
CROSS JOIN LATERAL (
    SELECT count(*) AS settled, count(*) FILTER (WHERE status = 'delivered') AS delivered
    FROM (
        SELECT status FROM notifications AS n
        WHERE n.channel = channels.channel AND n.status <> 'pending'
        ORDER BY n.settled_at DESC LIMIT $1
    ) AS newest
) AS judged
CROSS JOIN LATERAL (
    SELECT count(*) AS pending, count(*) FILTER (WHERE attempts >= $2) AS failing
    FROM notifications AS n
    WHERE n.channel = channels.channel AND n.status = 'pending'
) AS waiting
LEFT JOIN LATERAL (
    SELECT n.settled_at AS at FROM notifications AS n
    WHERE n.channel = channels.channel AND n.status = 'delivered'
    ORDER BY n.settled_at DESC LIMIT 1
) AS last_delivery ON TRUE
LEFT JOIN LATERAL (
    SELECT n.attempted_at AS at, n.last_error AS error, n.action, n.advice
    FROM notifications AS n
    WHERE n.channel = channels.channel AND n.status <> 'delivered' AND n.attempted_at IS NOT NULL
    ORDER BY n.attempted_at DESC LIMIT 1
) AS last_failure ON TRUE
ORDER BY channels.channel
