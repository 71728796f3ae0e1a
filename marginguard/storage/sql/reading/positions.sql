SELECT * FROM positions
-- What nobody guards stands first, then the worst level.
ORDER BY guard_id IS NOT NULL, level DESC, account_id, position_id
