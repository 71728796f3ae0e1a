-- The notifications since $1 as JSON objects without their texts, newest first, at most $2.
SELECT (to_jsonb(notifications) - '{notice,subject,text,html,payload,late_note}'::text[])::text
FROM notifications
WHERE created_at >= $1
ORDER BY created_at DESC, id DESC, user_id, channel
LIMIT $2
