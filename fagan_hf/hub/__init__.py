"""Model repositories: their files, their card, and how they get to the Hub and back."""
