"""What is fast and what is not: measured side by side with the peers, in one run, and written down."""
