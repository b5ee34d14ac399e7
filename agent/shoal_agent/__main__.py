"""``python -m shoal_agent`` is ``shoal``."""

from shoal_agent.cli.main import main

if __name__ == "__main__":
    main()
