"""The asyncio surface: the loop, its turn and its transports."""
