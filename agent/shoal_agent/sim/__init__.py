"""The same core in a virtual world: clock, brokers, links, machines, faults and the oracles that judge them."""
