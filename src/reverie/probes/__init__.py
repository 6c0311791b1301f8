"""Measurements beyond accuracy, made after each task; oracles used for evaluation live here."""
