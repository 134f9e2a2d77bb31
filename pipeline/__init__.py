"""seqtrack's library: one module per idea, importable without side effects.

Data flows one way: `stages` call `pipeline`; nothing in here imports `stages`.
"""
