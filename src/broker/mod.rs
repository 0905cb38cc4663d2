//! Turns one log into topics, cursors and subscriptions.
