//! Plan and checks into preflight evidence.
