"""Paper (b), arXiv 2504.03668: does choosing the split again keep a service level while conditions change.

trace      what happens to everybody alike: load, links, failures, arrivals
cluster    the machines, the model, and a planner that remembers its answers
serving    requests through nodes and links, event by event
methods    what is run against what: ``ours`` calls the core, the rest are baselines
measures   what a run amounts to, by definitions fixed in advance
study      seeds times methods, assumptions, pass bands
"""
