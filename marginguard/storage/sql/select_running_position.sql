-- The one of the positions $2 of account $1 that runs, if one does.
SELECT * FROM positions WHERE account_id = $1 AND position_id = ANY($2::text[]) LIMIT 1
