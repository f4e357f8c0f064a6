"""A comparison in plain words, never more of them than its figures bear."""

from __future__ import annotations

from headtohead.measure.power import MOST_SEEDS, Settle
from headtohead.measure.statistics import Comparison


def decimals(value: float) -> str:
    """To three decimals, without a zero's sign."""
    return f"{value:.3f}".replace("-0.000", "0.000")


def sentence(phrase: str, region: str, c: Comparison, margin: float) -> str:
    """One comparison in plain words, such as "A full view of the input: restoration takes 0.031 bits per
    byte less (95 % interval 0.024 to 0.038): different."

    `phrase` is what `arm_to` has and `arm_from` has not.
    """
    if c.outcome in ("no verdict", "not judged"):
        return f"{phrase}: {c.outcome} in {region}: {c.reason}."
    low, high = c.interval
    # Rounding must not make an interval inside the margin look as if it touched it.
    close = any(abs(abs(bound) - margin) < 0.0005 for bound in c.interval)
    digits = 4 if margin < 0.005 or close else 3
    limit = f"{margin:.{digits}f}"
    if c.beyond_zero:
        how, ends = ("less", (-high, -low)) if c.difference < 0 else ("more", (low, high))
        after = f"{c.outcome} of {limit}" if c.inside_margin else c.outcome
        open_question = (
            "" if c.inside_margin or c.beyond_margin else f" By more than the margin of {limit}? Undecided."
        )
        return (
            f"{phrase}: {region} takes {abs(c.difference):.{digits}f} bits per byte {how} "
            f"(95 % interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f}): {after}.{open_question}"
        )
    difference, low_text, high_text = (_signed(x, digits) for x in (c.difference, low, high))
    if c.outcome == "no difference":
        return (
            f"{phrase}: no difference in {region}: {difference} bits per byte "
            f"(95 % interval {low_text} to {high_text}, inside the margin of ±{limit})."
        )
    return (
        f"{phrase}: undecided in {region}: {difference} bits per byte "
        f"(95 % interval {low_text} to {high_text}); {c.reason}. {_settling(c.settle)}"
    )


def _signed(x: float, digits: int) -> str:
    """With a sign and a true minus; a zero has none."""
    text = f"{abs(x):.{digits}f}"
    return text if float(text) == 0 else ("−" if x < 0 else "+") + text


def _settling(settle: Settle | None) -> str:
    """What would settle it, if the difference stays where it is."""
    if settle is None:
        return ""
    documents = (
        None
        if settle.documents is None
        else f"{settle.documents:,} held-out documents like these ({settle.document_bytes or 0:,} bytes)"
    )
    if settle.seeds is not None and documents:
        text = f"{settle.seeds} seeds would settle it, or {documents}"
    elif settle.seeds is not None:
        text = f"{settle.seeds} seeds would settle it; no number of held-out documents alone would"
    elif documents:
        text = f"Seeds alone would not settle it; {documents} would"
    elif settle.both:
        text = (
            "Neither more seeds nor more held-out documents alone would settle it; "
            f"{settle.both[0]} seeds with {settle.both[1]:,} documents would"
        )
    else:
        text = f"Even {MOST_SEEDS} seeds with as many times the held-out documents would not settle it"
    return f"{text}, if the difference stays where it is."
