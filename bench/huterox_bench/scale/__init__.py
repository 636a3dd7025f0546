"""How long the switchboard's core takes for a decision, and how that grows with nodes, containers and services."""
