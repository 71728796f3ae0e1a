-- The ids that position $2 of account $1 has had: reductions close a trade and open its successor.
WITH RECURSIVE earlier AS (
    SELECT $2::text AS position_id
    UNION
    SELECT actions.position_id
    FROM actions INNER JOIN earlier ON actions.successor = earlier.position_id
    WHERE actions.account_id = $1
),

lineage AS (
    SELECT position_id FROM earlier
    UNION
    SELECT actions.successor
    FROM actions INNER JOIN lineage ON actions.position_id = lineage.position_id
    WHERE actions.account_id = $1 AND actions.successor IS NOT NULL
)

SELECT position_id FROM lineage
