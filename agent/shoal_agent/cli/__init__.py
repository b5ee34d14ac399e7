"""The command line, one file a command. Thin: each parses, calls the shell, prints."""
