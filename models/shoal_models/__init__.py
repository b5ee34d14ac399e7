"""Models as chains of blocks: importing, quantising, measuring, packaging. Knows no runtime and no network of nodes."""
