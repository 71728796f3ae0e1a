-- Deletes at most $2 commands from before $1.
DELETE FROM commands
WHERE id IN (SELECT id FROM commands WHERE at < $1 ORDER BY at LIMIT $2)
