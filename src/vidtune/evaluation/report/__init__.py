"""The HTML page about evaluation runs."""
