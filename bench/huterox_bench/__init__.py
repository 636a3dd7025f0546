"""Throughput and latency, measured beside what nothing can beat.

A *suite* (limits, lane, routed, ...) opens *loads*: things that run calls, a window of them in flight, and check every
answer. All loads of a suite are measured in turns, a slice of time each, over and over (A B C A B C ...), so that
whatever else the machine does falls on all of them alike. A *row* is the median over a load's slices, and its ratios
are taken against the limits of the same run.

To add a suite: write a package that opens its loads, list it in `suites.py`. Nothing else knows the suites by name.
"""
