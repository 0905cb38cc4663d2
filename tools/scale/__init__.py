"""What tools/bench-scale is made of: a small client of its own, a node, and the cases."""
