//! Throw-away servers for tests: their own directory, their own port, gone with the test.

pub(crate) mod redis;
