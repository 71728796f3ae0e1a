"""How the daemon does, told to machines: metrics, health checks, event loop lag, heartbeat."""
