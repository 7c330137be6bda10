"""Broken models against every command: nothing may end in a traceback, a crash, a hang or "this is a bug"."""
