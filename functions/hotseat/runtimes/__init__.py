"""Runtimes: how engines are run, each a folder beside this one."""
