-- Pending notifications ($1: only those that were lately made pending again), each as JSON, with
-- all others of the same notice and user: what was tried already decides on what is tried next.
SELECT
    jsonb_build_object(
        'id', id,
        'user_id', user_id,
        'channel', channel,
        'notice', notice,
        'subject', subject,
        'text', text,
        'html', html,
        'payload', payload,
        'late_note', late_note,
        'status', status,
        'attempts', attempts,
        'created_at', created_at,
        'next_attempt_at', next_attempt_at,
        'attempted_at', attempted_at,
        'settled_at', settled_at,
        'last_error', last_error,
        'action', action,
        'advice', advice,
        'revision', revision
    )::text
FROM notifications
WHERE (id, user_id) IN (
    SELECT id, user_id FROM notifications
    WHERE status = 'pending'
    AND (NOT $1::boolean OR resent_at > now() - interval '5 minutes')
)
ORDER BY created_at, id, user_id, channel
