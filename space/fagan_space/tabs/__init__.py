"""One module a tab: what it does as a function of plain values, and how it looks."""
