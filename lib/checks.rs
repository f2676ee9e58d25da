//! Every kind of check, and the one runner for all of them.
