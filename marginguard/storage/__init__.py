"""What is written down: the local journal and PostgreSQL."""
