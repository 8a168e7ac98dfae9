"""Where results go: ClickHouse, Redis and the dead-letter topic."""
