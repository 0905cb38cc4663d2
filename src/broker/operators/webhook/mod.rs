//! Placeholder.
mod address;
mod breaker;
mod post;
mod retry;
mod signature;
mod target;
mod window;
