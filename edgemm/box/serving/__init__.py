"""Serving a bundle on the box: sources, windows in time, branches at their own rates, decisions, sinks, the web page."""
