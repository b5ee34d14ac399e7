"""The light services this node can run, and their host."""
