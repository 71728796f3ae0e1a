-- Reducing, increasing the liquidation distance, and the stop-loss that the guard keeps.
ALTER TABLE actions
DROP CONSTRAINT actions_kind_check,
ADD CONSTRAINT actions_kind_check CHECK (
    kind IN (
        'close_position', 'reduce_position', 'add_margin', 'increase_liquidation_distance',
        'set_stop_loss'
    )
),
ADD COLUMN quantity bigint NOT NULL DEFAULT 0 CHECK (quantity >= 0),
ADD COLUMN stop_loss double precision,
ADD COLUMN reopening jsonb,
ADD COLUMN successor text;

ALTER TABLE positions
ADD COLUMN stop_loss double precision,
ADD COLUMN take_profit double precision,
ADD COLUMN backstop double precision,
ADD COLUMN original_margin bigint;

-- An episode no longer says why its newest action did not take effect.
UPDATE guard_state SET memory = jsonb_set(
    memory,
    '{episodes}',
    (
        SELECT coalesce(jsonb_agg(episode - 'refusal' ORDER BY number), '[]')
        FROM jsonb_array_elements(memory -> 'episodes') WITH ORDINALITY AS e (episode, number)
    )
);
