"""Programs that build and check the course."""
