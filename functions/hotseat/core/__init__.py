"""The decisions of hotseat: the admission machine, the scheduler and the policies.

Everything here is pure. Time and ids come with each stimulus, and what is to be done leaves as a
command. import-linter checks that there is no clock, thread, socket or file in this package.
"""
