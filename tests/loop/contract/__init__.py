"""The contract of asyncio, told by asyncio: scenarios whose traces must be the same on every loop."""
