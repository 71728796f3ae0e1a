-- Deletes at most $3 notifications: those delivered from before $1, those that failed from before
-- $2. What is pending stays, with all that was tried of the same notice for the same user.
DELETE FROM notifications
WHERE (id, user_id, channel) IN (
    SELECT old.id, old.user_id, old.channel
    FROM notifications AS old
    WHERE old.created_at < $1
    AND (old.status = 'delivered' OR (old.status = 'failed' AND old.created_at < $2))
    AND NOT EXISTS (
        SELECT
        FROM notifications AS sibling
        WHERE sibling.id = old.id AND sibling.user_id = old.user_id AND sibling.status = 'pending'
    )
    ORDER BY old.created_at
    LIMIT $3
)
