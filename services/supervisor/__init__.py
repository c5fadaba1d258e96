"""The supervisor: a process that brings jobs forward, sizes the pools of workers to the backlog,
and tells tenants how their jobs ended. All that it knows is in the store or in Ray: kill it, and
start another.
"""
