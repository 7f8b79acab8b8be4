"""What the project costs: ratios against hand-written code, measured side by side."""
