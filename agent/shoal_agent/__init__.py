"""The agent: what runs on every device. ``core`` decides, ``shell`` acts, ``cli`` is for people."""
