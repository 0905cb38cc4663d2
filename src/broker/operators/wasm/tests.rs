//! What operators do in an open broker.
