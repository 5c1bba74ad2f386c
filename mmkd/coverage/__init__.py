"""Which of the shipped configs can be distilled, found out by training each of them."""
