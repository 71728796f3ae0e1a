-- $1: a JSON array of commands. A batch whose commit was ambiguous may be written again.
INSERT INTO commands (id, at, by, command, guard_id, accepted, answer)
SELECT id, at, by, command, guard_id, accepted, answer
FROM jsonb_populate_recordset(NULL::commands, $1::text::jsonb)
ON CONFLICT (id) DO NOTHING
