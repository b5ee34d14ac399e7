"""Paper (a), arXiv 2601.19563: two-tier deployment of microservices under end-to-end deadlines, rebuilt.

What was read, what was inferred and what is assumed is told by ``regimes``, and printed with every report. Units are
the paper's: megabytes, milliseconds, megabytes per millisecond; a slot is one millisecond.
"""
