"""The judgement of hotseat, and nothing else: documents, two state machines and a policy.

Everything here is pure. Time and identity arrive with each stimulus; what shall happen leaves as a command. There is no
clock, thread, socket or file in this package, and import-linter keeps it so: a scheduler that can be run through 10,000
random steps in a second is one that can be trusted with a GPU.
"""
