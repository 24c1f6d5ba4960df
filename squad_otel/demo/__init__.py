"""The demo: a small real squad whose agents follow a script, watched as any squad is."""
