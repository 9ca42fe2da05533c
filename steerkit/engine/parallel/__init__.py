"""One model on several processes: which of its tensors a process holds a share of, and the group that runs it in step.

``shards`` knows sharded tensors and values, ``group`` the processes: joined from torchrun's environment, with a time
limit. Nothing here knows what is computed.
"""
