-- Every running position as last seen: first what no guard covers, then by level, worst first.
SELECT
    account_id, position_id, guard_id, mode, side, quantity, margin, entry_price, leverage,
    price, level, risk, trigger_price, liquidation_price, liquidation_distance, pl, stop_loss,
    take_profit, backstop, original_margin, seen_at
FROM positions
ORDER BY guard_id IS NOT NULL, level DESC, account_id, position_id
