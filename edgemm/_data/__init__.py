"""The inner parts of ``data``: where rows come from, and how cells become arrays."""
