//! EDGE-05: whom a revocation means, and for how long.
