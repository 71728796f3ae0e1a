"""What somebody else did to a position between two reads of it."""

from marginguard.domain.model import Position


def foreign_change(before: Position, after: Position) -> str | None:
    """Return in plain English how the position was changed, or None if it was not.

    Both are reads of one position between which no action of ours was under way. Funding is no
    change: paid, it leaves the margin; received, it may or may not have been added to it.
    """
    if (before.side, before.quantity) != (after.side, after.quantity):
        was = f"{before.side.value} {before.quantity:,} USD"
        return f"it was {was} and is {after.side.value} {after.quantity:,} USD"
    funding = after.funding_paid - before.funding_paid
    least = before.margin - max(0, funding)
    most = before.margin - min(0, funding)
    if after.margin > most:
        return f"{after.margin - most:,} sats of margin were added"
    if after.margin < least:
        return f"{least - after.margin:,} sats of margin were taken out"
    if after.entry_price != before.entry_price:
        # Taking out profit moves the entry; so do orders that leave the quantity as it was.
        return f"its entry price was {before.entry_price:,.1f} and is {after.entry_price:,.1f}"
    return None
