"""From structure to calls: the drawing, the table, the trace, and what can be changed on the way."""
