//! Commands that deal with groups.
