"""The whole chain, driven through the SDK as a user would: what the suites of calls have in common."""
