"""The policy court: traces, replayed through the real core for every policy, held against an offline bound."""
