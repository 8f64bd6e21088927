"""What a hosted backend is owed if a keeper dies."""
