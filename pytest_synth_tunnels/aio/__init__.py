"""What an asyncio process of this project needs: deadlines, tasks, back-off, a loop."""
