//! EDGE-03, EDGE-04, EDGE-05, EDGE-07: a token's life, from outside: the keys that verify it, its
//! replacement and its end, its revocation.

mod issuer;
mod keys;
mod renewal;
mod revocation;
mod session;
