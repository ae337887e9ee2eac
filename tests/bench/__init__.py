"""The numbers that concern one node, measured side by side with what they are compared to: `python -m tests.bench`."""
