"""Variants of rows that more than one room must know."""

SEES_THE_TRUTH = "sees the truth"  # of a diagnostic's rows, with which no table compares
