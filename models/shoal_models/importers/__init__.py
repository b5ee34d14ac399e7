"""One module per format a model may come in."""
