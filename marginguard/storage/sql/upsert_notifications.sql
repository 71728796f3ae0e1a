-- $1: a JSON array of notifications, each key once. An older revision never replaces a newer one.
INSERT INTO notifications (
    id, user_id, channel, event, kind, severity, guard_id, account_id, position_id, execution_id,
    action_id, notice, subject, text, html, payload, late_note, status, attempts, created_at,
    next_attempt_at, attempted_at, settled_at, last_error, action, advice, revision
)
SELECT
    id, user_id, channel, event, kind, severity, guard_id, account_id, position_id, execution_id,
    action_id, notice, subject, text, html, payload, late_note, status, attempts, created_at,
    next_attempt_at, attempted_at, settled_at, last_error, action, advice, revision
FROM jsonb_populate_recordset(NULL::notifications, $1::text::jsonb)
ON CONFLICT (id, user_id, channel) DO UPDATE SET
    event = excluded.event,
    kind = excluded.kind,
    severity = excluded.severity,
    guard_id = excluded.guard_id,
    account_id = excluded.account_id,
    position_id = excluded.position_id,
    execution_id = excluded.execution_id,
    action_id = excluded.action_id,
    notice = excluded.notice,
    subject = excluded.subject,
    text = excluded.text,
    html = excluded.html,
    payload = excluded.payload,
    late_note = excluded.late_note,
    status = excluded.status,
    attempts = excluded.attempts,
    created_at = excluded.created_at,
    next_attempt_at = excluded.next_attempt_at,
    attempted_at = excluded.attempted_at,
    settled_at = excluded.settled_at,
    last_error = excluded.last_error,
    action = excluded.action,
    advice = excluded.advice,
    revision = excluded.revision
WHERE notifications.revision < excluded.revision
