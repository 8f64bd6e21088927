"""What an asyncio process of this project needs beside its loop: deadlines, tasks, back-off."""
