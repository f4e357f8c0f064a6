"""Tasks: questions with known answers, chosen by likelihood or written, zero- and few-shot. No torch."""
