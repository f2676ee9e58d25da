//! Checks, metrics and judge into verification evidence.
