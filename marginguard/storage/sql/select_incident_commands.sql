-- The commands since $1 as JSON objects, newest first, at most $2; without which chat asked.
SELECT
    (
        to_jsonb(commands)
        || jsonb_build_object('by', regexp_replace(by, '^telegram chat .*$', 'telegram chat ***'))
    )::text
FROM commands
WHERE at >= $1
ORDER BY at DESC, id DESC
LIMIT $2
