"""The supervisor: recovers jobs, scales the pools of workers to the backlog, sends webhooks.

All that it knows is in the store or in Ray: it can be killed and started again at any time.
"""
