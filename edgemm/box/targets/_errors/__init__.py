"""What targets share: a runtime's own exception in our words."""
