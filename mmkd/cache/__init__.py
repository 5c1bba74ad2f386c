"""What a teacher says at the places that losses read, computed once and kept."""
