"""Where independent tasks run: in this process, or on workers."""
