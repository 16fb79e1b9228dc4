"""Real programs on every loop: what works on asyncio works on clearway, on both engines."""
