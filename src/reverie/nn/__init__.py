"""Layers, networks and optimisers shared by solvers and generators; no continual learning in here."""
