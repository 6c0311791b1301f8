"""Runs, grids of runs, presets and the published tables that they are compared with."""
