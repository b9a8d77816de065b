"""The tabs, one module each: the work as a function of plain values, and the layout."""
