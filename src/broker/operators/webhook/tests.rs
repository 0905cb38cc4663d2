//! Rules over a real log.
