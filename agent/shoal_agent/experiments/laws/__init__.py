"""The laws that theory promises of the fast loop, measured (T1 to T8 of ``docs/control.md``)."""
