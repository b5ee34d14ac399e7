"""SANS-IO: every decision an agent takes. No clock, no chance of its own, no socket, no thread, no log."""
