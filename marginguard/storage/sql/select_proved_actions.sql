-- The actions of account $1 that were carried out and proved, as a JSON array, oldest first.
SELECT coalesce(jsonb_agg(to_jsonb(actions) ORDER BY intended_at, id), '[]')::text
FROM actions
WHERE account_id = $1 AND status = 'done' AND proof IS NOT NULL AND NOT dry_run
