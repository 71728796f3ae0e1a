-- $1: since when. Actions that ended and of which nobody was told, as a JSON array, oldest first:
-- the daemon was killed between the two. Stop-losses are left out, since keeping them is tried
-- again and told of by itself.
SELECT coalesce(jsonb_agg(to_jsonb(a) ORDER BY a.settled_at, a.id), '[]')::text
FROM actions AS a
WHERE a.settled_at >= $1 AND a.kind <> 'set_stop_loss'
AND NOT EXISTS (SELECT FROM notifications AS n WHERE n.action_id = a.id)
