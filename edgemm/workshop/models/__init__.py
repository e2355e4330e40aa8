"""The fused model: reference parts, whole models, tracing and export."""
