"""Shared memory of Huterox: segments, their allocator, the rings, and the lane that is built of them.

It carries bytes and knows nothing of models or messages. `layout`, `slab`, `ring` and `tensor` are pure and work on any
buffer; `segment`, `doorbell`, `handover` and `lane` touch the operating system.
"""
