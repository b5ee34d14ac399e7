"""The wire: what nodes say to each other and how it is written down. No clock, no socket, no randomness."""
