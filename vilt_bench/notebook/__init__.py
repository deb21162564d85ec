"""What a program or a notebook asks for: measuring what it has in hand, with progress, tables and pictures."""
