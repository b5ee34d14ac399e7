"""The HTTP face of a node: the OpenAI API, health, metrics."""
