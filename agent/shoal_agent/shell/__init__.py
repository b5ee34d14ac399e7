"""Drivers: one file for each outside thing. A driver turns the world into events and effects into the world."""
