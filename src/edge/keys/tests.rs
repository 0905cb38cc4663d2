//! EDGE-03: sets of keys, and where they come from.
